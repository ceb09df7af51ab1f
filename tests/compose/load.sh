#!/bin/sh
# load.sh NAME COUNT: pushes so many commits of a small repository, one after the other, and prints their correlations.
# Runs in the container of `lota`.
set -eu
cd "$(mktemp -d)"
git init --quiet --initial-branch=main "$1" && cd "$1"
cat > .lotabots.yaml <<'Y'
version: 1
build: {steps: [{name: copy, run: cp number out}], artifacts: [out]}
test: {suites: {unit: {run: "test -s out && printf '1..1\\nok 1 - copied\\n'"}}}
Y
for number in $(seq "$2"); do
    echo "$1 $number" > number
    git add --all
    git -c user.name=t -c user.email=t@example.org commit --quiet --message "$number"
    lota push . | sed -n 's/^ *id and correlation //p'
done
