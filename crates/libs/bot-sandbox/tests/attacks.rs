//! Every attack of `bot_sandbox::attacks`, carried out in each kind of sandbox. What stands in that list is asserted both
//! ways: an attack that a kind holds has to fail, and one that it does not hold has to succeed, so that the list is true and
//! the attack is one. Each attack is bounded by itself.
#![allow(clippy::disallowed_methods, reason = "victims and compilers are started outside of any sandbox")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, chown},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command as Process},
    thread,
};

use bot_sandbox::{
    Command, Ending, Outcome, SandboxKind,
    attacks::{ATTACKS, table},
};
use support::{Fixture, running, wait_until};

/// Python that runs `attack()` and says how it went; an error of the system means that it was refused.
const FRAME: &str = "
import ctypes, mmap, os, resource, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    if number == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number
def any_of(*ways):
    told = []
    for way in ways:
        try:
            way()
            return
        except OSError as error:
            told.append(str(error))
    raise OSError('; '.join(told))
A, TOKEN, PID = os.environ['A'], os.environ['TOKEN'], int(os.environ['VICTIM'])
def attack():
BODY
try:
    attack()
    print('SUCCEEDED')
except OSError as error:
    print('REFUSED', error)
";

struct Bench {
    test: Fixture,
    kind: SandboxKind,
    /// Beside the workspace.
    outside: PathBuf,
    /// A process without capabilities, as those of other runs are.
    victim: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0"))
}

impl Bench {
    async fn new(kind: SandboxKind) -> Self {
        let test = Fixture::new(kind).await;
        let outside = test.folder.path().canonicalize().unwrap().join("outside");
        for (file, content) in [
            ("other/tree/file", "canary"),
            ("bot/store.sqlite", "canary"),
            ("secrets/TOKEN", "canary"),
            ("home/.ssh/id_ed25519", "canary"),
            ("victim", "canary"),
        ] {
            fs::create_dir_all(outside.join(file).parent().unwrap()).unwrap();
            fs::write(outside.join(file), content).unwrap();
        }
        let mut words: Vec<String> = if is_root() {
            ["setpriv", "--inh-caps=-all", "--bounding-set=-all"].map(str::to_owned).to_vec()
        } else {
            Vec::new()
        };
        words.extend(["sleep".to_owned(), format!("{}99", test.token)]);
        let victim = Process::new(&words[0]).args(&words[1..]).env("SECRET", "canary").spawn().unwrap();
        let name = format!("sleep\0{}99", test.token);
        wait_until("the victim runs", || !running(&name).is_empty()).await;
        Self { test, kind, outside, victim }
    }

    /// `body` is Python; `about` is what it finds in `A`.
    fn command(&self, about: &str, body: &str) -> Command {
        let script = FRAME.replace("BODY", &format!("    {}", body.replace('\n', "\n    ")));
        fs::write(self.test.workspace.tree.join("attack.py"), script).unwrap();
        let mut command = self.test.command("python3 attack.py");
        command.env.insert("A".into(), about.into());
        command.env.insert("TOKEN".into(), self.test.token.clone());
        command.env.insert("VICTIM".into(), self.victim.id().to_string());
        command
    }

    async fn judged(&self, command: Command) -> bool {
        let outcome = self.test.sandbox.run(command).await.unwrap();
        self.said(&outcome)
    }

    fn said(&self, outcome: &Outcome) -> bool {
        let said = outcome.tail.iter().find(|line| line.starts_with("SUCCEEDED") || line.starts_with("REFUSED"));
        let said = said.unwrap_or_else(|| panic!("in {} the attack broke: {outcome:?}", self.kind));
        println!("{}: {said}", self.kind);
        said.starts_with("SUCCEEDED")
    }

    /// Whether the body succeeds.
    async fn tries(&self, about: &str, body: &str) -> bool {
        self.judged(self.command(about, body)).await
    }

    fn at(&self, file: &str) -> String {
        self.outside.join(file).display().to_string()
    }

    async fn reads(&self, file: &str) -> bool {
        self.tries(&self.at(file), "if open(A).read() != 'canary': raise OSError('something else')").await
    }

    /// Whether it came to its end without that ending.
    async fn exceeds(&self, command: Command, ending: Ending) -> bool {
        let outcome = self.test.sandbox.run(command).await.unwrap();
        outcome.ending != ending && self.said(&outcome)
    }

    fn compile(&self, name: &str, options: &[&str], source: &str) -> PathBuf {
        let (file, to) = (self.test.workspace.tree.join(format!("{name}.c")), self.test.workspace.tree.join(name));
        fs::write(&file, source).unwrap();
        let done = Process::new("cc").args(options).arg("-o").args([&to, &file]).status().unwrap();
        assert!(done.success(), "cc is needed");
        self.test.sandbox.inside(&self.test.workspace).tree.join(name)
    }
}

/// Each is a test of every kind: whether the attack of that name succeeds.
macro_rules! attacks {
    ($($name:ident),* $(,)?) => {
        mod bubblewrap { $(#[tokio::test] async fn $name() {
            super::meets(stringify!($name), bot_sandbox::SandboxKind::Bubblewrap, async |bench| super::$name(bench).await).await;
        })* }
        mod landlock { $(#[tokio::test] async fn $name() {
            super::meets(stringify!($name), bot_sandbox::SandboxKind::Landlock, async |bench| super::$name(bench).await).await;
        })* }
        mod process_group { $(#[tokio::test] async fn $name() {
            super::meets(stringify!($name), bot_sandbox::SandboxKind::ProcessGroup, async |bench| super::$name(bench).await).await;
        })* }
        const TRIED: &[&str] = &[$(stringify!($name)),*];
    };
}

attacks!(
    other_workspaces,
    bot_store,
    secrets,
    host_home,
    writes_outside,
    symlink,
    hard_link,
    names_outside,
    modes_outside,
    unix_socket,
    abstract_socket,
    tcp,
    udp,
    shared_memory,
    process_memory,
    process_arguments,
    signals,
    process_limits,
    setuid,
    device_nodes,
    user_namespaces,
    preload,
    daemon,
    fork_bomb,
    memory,
    memory_files,
    hidden_memory,
    file_size,
    log_flood,
    descriptors,
    inotify,
);

async fn meets(name: &str, kind: SandboxKind, attack: impl AsyncFnOnce(&mut Bench) -> bool) {
    let name = name.replace('_', "-");
    let mut bench = Bench::new(kind).await;
    let held = !bench.test.sandbox.weaknesses().contains(&name.as_str());
    let succeeded = attack(&mut bench).await;
    if held {
        assert!(!succeeded, "{kind} does not hold {name}");
    } else if kind != SandboxKind::ProcessGroup || is_sure(&name) {
        assert!(succeeded, "{kind} holds {name} after all: say so in attacks.rs");
    }
    bench.test.assert_nothing_left_but("99").await;
}

/// What succeeds without walls on every machine, for every user, each time.
fn is_sure(name: &str) -> bool {
    match name {
        // Caught if the run is looked at in the wrong moment.
        "daemon" => false,
        "device-nodes" => is_root(),
        "user-namespaces" => Process::new("unshare").args(["-U", "true"]).status().is_ok_and(|done| done.success()),
        _ => true,
    }
}

#[test]
fn all_of_the_list_are_tried_and_the_documentation_shows_it() {
    let names: Vec<String> = TRIED.iter().map(|name| name.replace('_', "-")).collect();
    assert_eq!(names, ATTACKS.map(|attack| attack.name));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/SECURITY.md");
    assert!(fs::read_to_string(page).unwrap().contains(&table()), "docs/SECURITY.md needs this table:\n{}", table());
}

async fn other_workspaces(bench: &mut Bench) -> bool {
    bench.tries(&bench.at("other/tree/file"), "any_of(lambda: open(A).read(), lambda: open(A, 'a'))").await
}

async fn bot_store(bench: &mut Bench) -> bool {
    bench.reads("bot/store.sqlite").await
}

async fn secrets(bench: &mut Bench) -> bool {
    bench.reads("secrets/TOKEN").await
}

async fn host_home(bench: &mut Bench) -> bool {
    bench.tries(&bench.at("home"), "any_of(lambda: os.listdir(A), lambda: open(A + '/.ssh/id_ed25519'))").await
}

async fn writes_outside(bench: &mut Bench) -> bool {
    let body = "any_of(lambda: open(A + '/new', 'w'), lambda: os.truncate(A + '/victim', 0), lambda: os.remove(A + '/victim'), lambda: os.mkdir(A + '/folder'), lambda: os.rename(A + '/victim', 'mine'), lambda: open('/usr/lib/lota-attack', 'w'))";
    let told = bench.tries(&bench.at(""), body).await;
    assert_eq!(told, fs::read_dir(&bench.outside).unwrap().count() != 5, "what it says is what it did");
    told
}

async fn symlink(bench: &mut Bench) -> bool {
    bench.tries(&bench.at("secrets"), "os.symlink(A, 'link')\nopen('link/TOKEN').read()").await
}

async fn hard_link(bench: &mut Bench) -> bool {
    bench.tries(&bench.at("victim"), "os.link(A, 'hard')\nopen('hard').read()").await
}

async fn names_outside(bench: &mut Bench) -> bool {
    bench.tries(&bench.at("victim"), "os.stat(A)").await
}

async fn modes_outside(bench: &mut Bench) -> bool {
    let told = bench.tries(&bench.at("victim"), "os.chmod(A, 0o777)").await;
    assert_eq!(told, bench.outside.join("victim").metadata().unwrap().permissions().mode() & 0o777 == 0o777);
    told
}

const CONNECT: &str = "s = socket.socket(socket.AF_UNIX)\ns.settimeout(5)\ns.connect(A.replace('@', chr(0)))";

async fn unix_socket(bench: &mut Bench) -> bool {
    let _listener = UnixListener::bind(bench.outside.join("socket")).unwrap();
    let mut command = bench.command(&bench.at("socket"), CONNECT);
    command.network = true;
    bench.judged(command).await
}

async fn abstract_socket(bench: &mut Bench) -> bool {
    let name = format!("lota-test-{}", bench.test.token);
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let without = bench.tries(&format!("@{name}"), CONNECT).await;
    assert_eq!(without, bench.kind == SandboxKind::ProcessGroup, "without network no wall lets it through");
    let mut command = bench.command(&format!("@{name}"), CONNECT);
    command.network = true;
    bench.judged(command).await
}

async fn tcp(bench: &mut Bench) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let body = "socket.create_connection(('127.0.0.1', int(A)), 5)";
    let mut command = bench.command(&port, body);
    command.network = true;
    assert!(bench.judged(command).await, "whoever asks for network has it");
    bench.tries(&port, body).await
}

async fn udp(bench: &mut Bench) -> bool {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let mut word = [0; 16];
        let (length, from) = server.recv_from(&mut word).unwrap();
        server.send_to(&word[..length], from).unwrap();
    });
    let body = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(5)\ns.connect(('127.0.0.1', int(A)))\ns.send(b'x')\ns.recv(1)";
    let told = bench.tries(&port.to_string(), body).await;
    // Also where nothing came, it is waited for.
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", ("127.0.0.1", port)).unwrap();
    echo.join().unwrap();
    told
}

async fn shared_memory(bench: &mut Bench) -> bool {
    let made = Process::new("ipcmk").args(["-M", "4096"]).output().unwrap();
    let id: String = String::from_utf8(made.stdout).unwrap().chars().filter(char::is_ascii_digit).collect();
    let body = "libc.shmat.restype = ctypes.c_long\ncall(libc.shmat(int(A), None, 0o10000))";
    let told = bench.tries(&id, body).await;
    assert!(Process::new("ipcrm").args(["-m", &id]).status().unwrap().success());
    told
}

async fn process_memory(bench: &mut Bench) -> bool {
    let body = "def trace():
    call(libc.ptrace(16, PID, None, None))
    os.waitpid(PID, 0)
    libc.ptrace(17, PID, None, None)
any_of(trace, lambda: open(f'/proc/{PID}/environ').read(), lambda: os.readlink(f'/proc/{PID}/fd/1'), lambda: open(f'/proc/{PID}/mem', 'rb'), lambda: os.listdir(f'/proc/{PID}/cwd/'))";
    bench.tries("", body).await
}

async fn process_arguments(bench: &mut Bench) -> bool {
    let body = "for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if TOKEN + '99' in open(f'/proc/{pid}/cmdline').read(): return
    except OSError: pass
raise OSError('not seen')";
    bench.tries("", body).await
}

async fn signals(bench: &mut Bench) -> bool {
    bench.tries("", "os.kill(PID, signal.SIGURG)").await
}

async fn process_limits(bench: &mut Bench) -> bool {
    bench.tries("", "resource.prlimit(PID, resource.RLIMIT_NOFILE, (64, 64))").await
}

async fn setuid(bench: &mut Bench) -> bool {
    if is_root() {
        let copy = bench.test.workspace.tree.join("id");
        fs::copy("/usr/bin/id", &copy).unwrap();
        chown(&copy, Some(65534), None).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        // So that it is seen to work where nothing forbids it.
        let outside = Process::new(&copy).arg("-u").output().unwrap();
        assert_eq!(String::from_utf8(outside.stdout).unwrap().trim(), "65534");
    }
    let body = "if 'NoNewPrivs:\\t0' in open('/proc/self/status').read(): return
if os.path.exists('id') and int(subprocess.check_output(['./id', '-u'])) != os.getuid(): return
raise OSError('nothing gained')";
    bench.tries("", body).await
}

async fn device_nodes(bench: &mut Bench) -> bool {
    let is_disk = |path: &PathBuf| {
        use std::os::unix::fs::FileTypeExt;
        path.metadata().is_ok_and(|meta| meta.file_type().is_block_device())
    };
    let disk = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path()).find(is_disk);
    let disk = disk.unwrap_or_else(|| "/dev/mem".into()).display().to_string();
    let body = "any_of(lambda: os.mknod('disk', 0o60600, os.makedev(8, 0)), lambda: os.mknod('memory', 0o20600, os.makedev(1, 1)), lambda: open(A, 'rb'), lambda: open('/dev/kmsg', 'rb'))";
    bench.tries(&disk, body).await
}

async fn user_namespaces(bench: &mut Bench) -> bool {
    bench.tries("", "call(libc.unshare(0x10000000))").await
}

async fn preload(bench: &mut Bench) -> bool {
    let library = bench.compile(
        "evil.so",
        &["-shared", "-fPIC"],
        "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/resource.h>\n__attribute__((constructor)) static void f(void) {\n struct rlimit a, b; const char *p = getenv(\"SEEN\"); FILE *to;\n getrlimit(RLIMIT_NOFILE, &a); getrlimit(RLIMIT_FSIZE, &b);\n if (p && (to = fopen(p, \"a\"))) { fprintf(to, \"%d\\n\", a.rlim_cur > 256 || b.rlim_cur > (64 << 20)); fclose(to); } }\n",
    );
    let mut command = bench.command("", "if '1' not in open(os.environ['SEEN']).read(): raise OSError('limited')");
    let seen = bench.test.sandbox.inside(&bench.test.workspace).tree.join("seen");
    command.env.insert("SEEN".into(), seen.display().to_string());
    command.env.insert("LD_PRELOAD".into(), library.display().to_string());
    bench.judged(command).await
}

async fn daemon(bench: &mut Bench) -> bool {
    let program = bench.compile(
        "daemon",
        &[],
        "#include <unistd.h>\nint main(int c, char **v) {\n char *a[] = {\"sleep\", v[1], 0}, *e[] = {0};\n if (fork()) _exit(0); setsid(); if (fork()) _exit(0);\n close(0); close(1); close(2); execve(\"/bin/sleep\", a, e); return 1; }\n",
    );
    let outcome = bench.test.run(&format!("{} TOKEN", program.display())).await;
    assert_eq!(outcome.ending, Ending::Exited(0));
    let name = format!("sleep\0{}\0", bench.test.token);
    let left = running(&name);
    for pid in &left {
        let _ = Process::new("kill").args(["-9", &pid.to_string()]).status();
    }
    wait_until("it is gone", || running(&name).is_empty()).await;
    !left.is_empty()
}

async fn fork_bomb(bench: &mut Bench) -> bool {
    let body = "end = time.time() + 8
for number in range(3000):
    if os.fork() == 0:
        signal.alarm(8)
        time.sleep(max(0, end - time.time()))
        os._exit(0)
time.sleep(max(0, end - time.time()))";
    let mut command = bench.command("", body);
    command.limits.processes = 60;
    bench.exceeds(command, Ending::ProcessesExceeded).await
}

async fn memory(bench: &mut Bench) -> bool {
    let mut command = bench.command(
        "",
        "held = []\nfor n in range(48):\n    held.append(b'x' * (8 << 20))\n    time.sleep(0.02)\ntime.sleep(3)",
    );
    command.limits.memory_bytes = 128 << 20;
    bench.exceeds(command, Ending::MemoryExceeded).await
}

async fn memory_files(bench: &mut Bench) -> bool {
    let body = "held = []
try:
    for n in range(12):
        if A: held.append(open(f'{A}/lota-{TOKEN}-{n}', 'wb'))
        else: held.append(os.fdopen(os.memfd_create('x'), 'wb'))
        held[-1].write(b'x' * (32 << 20))
        held[-1].flush()
        time.sleep(0.05)
    time.sleep(3)
finally:
    for n in range(12 if A else 0):
        if os.path.exists(f'{A}/lota-{TOKEN}-{n}'): os.remove(f'{A}/lota-{TOKEN}-{n}')";
    let mut succeeded = false;
    // Where /tmp is none of the sandbox's own it is a disk's.
    for place in ["", "/dev/shm", if bench.kind == SandboxKind::Bubblewrap { "/tmp" } else { "" }] {
        let mut command = bench.command(place, body);
        command.limits.memory_bytes = 128 << 20;
        succeeded |= bench.exceeds(command, Ending::MemoryExceeded).await;
    }
    succeeded
}

async fn hidden_memory(bench: &mut Bench) -> bool {
    let body = "size = 16 << 20
held = mmap.mmap(-1, 12 * size)
for n in range(12):
    held[n * size:(n + 1) * size] = b'x' * size
    held.madvise(mmap.MADV_DONTNEED, n * size, size)
time.sleep(1)
if any(held[n * size] != ord('x') for n in range(12)): raise OSError('it is gone')";
    let mut command = bench.command("", body);
    command.limits.memory_bytes = 128 << 20;
    bench.exceeds(command, Ending::MemoryExceeded).await
}

async fn file_size(bench: &mut Bench) -> bool {
    bench.tries("", "with open('large', 'wb') as f:\n    for n in range(65): f.write(b'x' * (1 << 20))").await
}

async fn log_flood(bench: &mut Bench) -> bool {
    let command = bench.command("", "for n in range(50000): print('x' * 1000)");
    bench.exceeds(command, Ending::OutputExceeded).await
}

async fn descriptors(bench: &mut Bench) -> bool {
    bench.tries("", "held = [os.open('/dev/null', os.O_RDONLY) for n in range(300)]").await
}

async fn inotify(bench: &mut Bench) -> bool {
    let body = "most = min(int(open('/proc/sys/fs/inotify/max_user_instances').read()), 1000)
held = []
try:
    while len(held) < most: held.append(call(libc.inotify_init1(0)))
except OSError: pass
if len(held) < most // 2: raise OSError(f'only {len(held)} of {most}')";
    let mut command = bench.command("", body);
    command.limits.open_files = 2000;
    bench.judged(command).await
}
