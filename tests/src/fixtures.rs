//! Small projects of each kind, for which a machine needs no network: what their files are, and repositories of them.
use std::path::Path;

use crate::Repository;

/// Files by their paths.
pub type Files = &'static [(&'static str, &'static str)];

/// JavaScript without dependencies, tested by node itself.
pub const NPM: Files = &[
    (
        "package.json",
        r#"{"name": "sums", "version": "1.0.0", "scripts": {"build": "mkdir -p dist && cp sums.js dist/", "test": "node --test"}}"#,
    ),
    ("sums.js", "exports.add = (a, b) => a + b;\n"),
    (
        "sums.test.js",
        "const test = require('node:test');\nconst assert = require('node:assert');\nconst { add } = require('./sums.js');\ntest('adds', () => assert.equal(add(1, 2), 3));\ntest('adds nothing', () => assert.equal(add(1, 0), 1));\n",
    ),
];

/// Python with unittest: two tests that pass, one that is skipped.
pub const PYTHON: Files = &[
    ("sums.py", "def add(a, b):\n    return a + b\n"),
    (
        "tests/test_sums.py",
        "import unittest\n\nfrom sums import add\n\n\nclass Sums(unittest.TestCase):\n    def test_adds(self):\n        self.assertEqual(add(1, 2), 3)\n\n    def test_many(self):\n        \"\"\"Many at once\"\"\"\n        print('a word in between')\n        for i in range(3):\n            with self.subTest(i=i):\n                self.assertEqual(add(i, 1), i + 1)\n\n    @unittest.skip('later')\n    def test_later(self):\n        pass\n",
    ),
];

/// C by a makefile.
pub const C: Files = &[
    (
        "Makefile",
        "all: sums\nsums: sums.c\n\t$(CC) -O2 -o $@ sums.c\ntest: all\n\t./sums 1 2 | grep -qx 3\n.PHONY: all test\n",
    ),
    ("sums.c", SUMS_C),
];

const SUMS_C: &str = "#include <stdio.h>\n#include <stdlib.h>\n\nint main(int n, char **words) {\n    int sum = 0;\n    for (int i = 1; i < n; i++) sum += atoi(words[i]);\n    printf(\"%d\\n\", sum);\n    return 0;\n}\n";

/// Two projects in one repository, C in `api` and a page in `web`: each is built where something of it changed.
pub const MONOREPO: Files = &[
    (
        ".lotabots.yaml",
        "version: 1
build:
  steps:
    - {name: api, run: make -C api && mkdir -p out && cp api/sums out, needs: [], when: {path: 'api/**'}}
    - {name: web, run: mkdir -p out && cp web/index.html out, needs: [], when: {path: 'web/**'}}
  artifacts: [out/**]
test:
  suites:
    api: {run: sh it.sh out/sums 1 2, reports: [junit.xml]}
    web: {run: sh it.sh grep -q hello out/index.html, reports: [junit.xml]}
",
    ),
    ("api/Makefile", "sums: sums.c\n\t$(CC) -O2 -o $@ sums.c\n"),
    ("api/sums.c", SUMS_C),
    ("web/index.html", "<p>hello\n"),
    (
        "it.sh",
        "set -e\nif [ -e out/sums ] || [ \"$1\" != out/sums ]; then \"$@\"; fi\necho '<testsuite><testcase name=\"it\"/></testsuite>' > junit.xml\n",
    ),
];

/// Built once for each of two pages.
pub const MATRIX: Files = &[(
    ".lotabots.yaml",
    "version: 1
build:
  matrix: {page: [one, two]}
  steps: [{name: page, run: mkdir out && echo $MATRIX_PAGE > out/page}]
  artifacts: [out/**]
test:
  suites: {both: {run: 'echo 1..1; grep -qx one out/page && grep -qrx two matrix && echo ok 1'}}
",
)];

/// A suite that writes into a PostgreSQL of its own and reads from it; its programs are in `bin`.
pub fn with_postgresql(path: &Path, bin: &Path) -> Repository {
    let pipeline = format!(
        r#"version: 1
build:
  steps: [{{name: schema, run: 'echo "create table sums (a int); insert into sums values (20), (22)" > schema.sql'}}]
  artifacts: [schema.sql]
test:
  suites:
    database:
      run: |
        psql="psql -h 127.0.0.1 -p $DB_PORT -U app -v ON_ERROR_STOP=1 -qtA postgres"
        echo 1..2
        $psql -f schema.sql && echo ok 1 - schema
        test "$($psql -c 'select sum(a) from sums')" = 42 && echo ok 2 - sums
      env: {{PATH: "{bin}:/usr/bin:/bin"}}
      services:
        - name: db
          run: initdb -D "$DATA" -U app --auth=trust --no-sync && exec postgres -D "$DATA" -p "$PORT" -k "$DATA" -c listen_addresses=127.0.0.1 -c fsync=off
          ready: {{log: "ready to accept connections", within: 120s}}
"#,
        bin = bin.display()
    );
    Repository::create(path, &[(".lotabots.yaml", &pipeline)])
}

/// Its pipeline file has a mistake.
pub const BROKEN: Files = &[(".lotabots.yaml", "version: 1\nbuild:\n  stepz: []\n")];

/// A step that prints 60 MiB; a fleet's default allows 50.
pub const HUGE_LOG: Files = &[(
    ".lotabots.yaml",
    "version: 1\nbuild:\n  steps:\n    - {name: quiet, run: echo a word}\n    - {name: talk, run: head -c 62914560 /dev/zero | tr '\\0' x | fold -w 4000}\ntest: {suites: {}}\n",
)];

/// A site without a pipeline file.
pub const SITE: Files = &[("index.html", "<p>hello\n")];

/// A Python test that fails on some commits and passes on others: see [`flaky_passes_on`].
pub const FLAKY: Files = &[(
    "test_sometimes.py",
    "import os\nimport unittest\n\n\nclass Sometimes(unittest.TestCase):\n    def test_it(self):\n        self.assertIn(os.environ['LOTA_COMMIT'][-1], '02468ace')\n\n    def test_always(self):\n        pass\n",
)];

/// What the test of [`FLAKY`] comes to on a commit.
pub fn flaky_passes_on(commit: &str) -> bool {
    commit.ends_with(|c| "02468ace".contains(c))
}

/// A repository whose makefile needs a file of its submodule, which lies in a repository beside it.
pub fn with_submodule(path: &Path) -> Repository {
    let library = Repository::create(&path.with_extension("library"), &[("sums.c", SUMS_C)]);
    let own = Repository::create(path, &[("Makefile", "sums: library/sums.c\n\t$(CC) -O2 -o $@ library/sums.c\n")]);
    own.add_submodule(&library, "library");
    own
}
