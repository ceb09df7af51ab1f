//! Archives: the same tree comes back, the same bytes come out, and hostile ones are refused.
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const LIMITS: ArchiveLimits = ArchiveLimits { entries_max: 1000, bytes_max: 1 << 20 };

/// Name to content, executable or not, or link target.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    File(Vec<u8>, bool),
    Link(PathBuf),
}

fn write_tree(root: &Path, tree: &BTreeMap<PathBuf, Node>) {
    for (name, node) in tree {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match node {
            Node::Link(target) => symlink(target, path).unwrap(),
            Node::File(bytes, executable) => {
                fs::write(&path, bytes).unwrap();
                let mode = if *executable { 0o700 } else { 0o600 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

fn read_tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let names = list_tree(root, 1000).unwrap();
    let node = |name: &PathBuf| {
        let path = root.join(name);
        if path.is_symlink() {
            return Node::Link(fs::read_link(path).unwrap());
        }
        Node::File(fs::read(&path).unwrap(), path.metadata().unwrap().mode() & 0o100 != 0)
    };
    names.into_iter().map(|name| (name.clone(), node(&name))).collect()
}

fn pack_all(root: &Path, to: &Path) -> Packed {
    pack(root, &list_tree(root, 1000).unwrap(), to, &LIMITS).unwrap()
}

fn nodes() -> impl Strategy<Value = BTreeMap<PathBuf, Node>> {
    // Folders and files have different names, so that no file is in another's way.
    let name = proptest::collection::vec("[d-f]{1,3}", 0..4)
        .prop_flat_map(|folders| ("[a-c]{1,2}|[a-c]{120}|ä b", Just(folders)))
        .prop_map(|(file, folders)| folders.iter().collect::<PathBuf>().join(file));
    let node = prop_oneof![
        3 => (proptest::collection::vec(any::<u8>(), 0..2000), any::<bool>()).prop_map(|(b, x)| Node::File(b, x)),
        1 => "[a-f]{1,3}(/[a-f]{1,3}){0,2}|[a-f]{150}".prop_map(|target| Node::Link(target.into())),
    ];
    proptest::collection::btree_map(name, node, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_packed_comes_back_and_packs_to_the_same_bytes(tree in nodes()) {
        let dir = TempDir::new().unwrap();
        let (from, to, archive) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("a"));
        fs::create_dir(&from).unwrap();
        write_tree(&from, &tree);
        let packed = pack_all(&from, &archive);
        let unpacked = unpack(&archive, &to, &LIMITS).unwrap();
        prop_assert_eq!((packed.entries, packed.bytes), (unpacked.entries, unpacked.bytes));
        prop_assert_eq!(read_tree(&to), tree);
        pack_all(&to, &dir.path().join("b"));
        prop_assert!(fs::read(&archive).unwrap() == fs::read(dir.path().join("b")).unwrap());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("a"), bytes).unwrap();
        let _ = unpack(&dir.path().join("a"), &dir.path().join("to"), &LIMITS);
    }
}

/// An entry as an attacker writes it: name and link go into the header unchecked.
fn hostile(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = Header::new_gnu();
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// Unpacks beside a folder `outside` and checks that nothing came there.
fn refused(bytes: &[u8]) -> String {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("archive"), bytes).unwrap();
    let told = unpack(&dir.path().join("archive"), &dir.path().join("in/to"), &LIMITS).unwrap_err().to_string();
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0, "{told}");
    assert!(!dir.path().join("evil").exists() && !dir.path().join("in/evil").exists(), "{told}");
    told
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["../evil", "/evil", "a/../../evil", "..", "/", "a/.."] {
        let told = refused(&hostile(&[(FILE, name, "", b"x")]));
        assert!(told.contains("does not stay inside") && told.contains(name), "{told}");
    }
    assert!(refused(&hostile(&[(EntryType::Directory, "../evil", "", b"")])).contains("does not stay inside"));
}

#[test]
fn links_that_leave_the_folder_are_refused() {
    let far = "d/".repeat(30) + "../../etc";
    for target in ["/etc/passwd", "../outside", "a/../../outside", "..", "", &far] {
        let told = refused(&hostile(&[(LINK, "link", target, b"")]));
        assert!(told.contains("may leave the tree"), "{target}: {told}");
    }
    // One link makes `..` behind it mean another folder than it seems to.
    let chain = [(LINK, "a/b/up", "../..", &b""[..]), (LINK, "out", "a/b/up/../outside", b"")];
    assert!(refused(&hostile(&chain)).contains("may leave the tree"));
}

#[test]
fn nothing_is_written_through_a_link() {
    let told = refused(&hostile(&[(LINK, "d", "elsewhere", b""), (FILE, "d/evil", "", b"x")]));
    assert!(told.contains("twice"), "links are last, so the folder is in the way: {told}");

    // A link that was in the folder before.
    let dir = TempDir::new().unwrap();
    let (to, archive, outside) = (dir.path().join("to"), dir.path().join("a"), dir.path().join("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&to).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(&outside, to.join("d")).unwrap();
    symlink(outside.join("kept"), to.join("f")).unwrap();
    fs::write(&archive, hostile(&[(FILE, "d/evil", "", b"x")])).unwrap();
    assert!(matches!(unpack(&archive, &to, &LIMITS), Err(ArchiveError::ThroughLink { .. })));
    fs::write(&archive, hostile(&[(FILE, "f", "", b"new")])).unwrap();
    unpack(&archive, &to, &LIMITS).unwrap();
    assert_eq!(fs::read_to_string(to.join("f")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert!(!outside.join("evil").exists());
}

#[test]
fn other_kinds_and_doubles_are_refused() {
    for (kind, want) in [
        (EntryType::Link, "a hard link"),
        (EntryType::Char, "a device"),
        (EntryType::Block, "a device"),
        (EntryType::Fifo, "a pipe"),
        (EntryType::GNUSparse, "a sparse file"),
        (EntryType::new(b'Z'), "not known"),
    ] {
        let told = refused(&hostile(&[(kind, "x", "outside/y", b"")]));
        assert!(told.contains(want), "{told}");
    }
    assert!(refused(&hostile(&[(FILE, "x", "", b"1"), (FILE, "x", "", b"2")])).contains("twice"));
}

#[test]
fn limits_hold_for_entries_bytes_and_bombs() {
    let names: Vec<String> = (0..=1000).map(|i| format!("f{i}")).collect();
    let many: Vec<_> = names.iter().map(|n| (FILE, n.as_str(), "", &b""[..])).collect();
    assert!(refused(&hostile(&many)).contains("more than 1000 entries"));

    let big = vec![0; (LIMITS.bytes_max + 1) as usize];
    let bomb = zstd::encode_all(&hostile(&[(FILE, "big", "", &big)])[..], 19).unwrap();
    assert!(bomb.len() < 2000, "{}", bomb.len());
    assert!(refused(&bomb).contains("more than 1048576 bytes"));

    // An extension header that wants gigabytes of memory, and a size hidden in one.
    let long = hostile(&[(EntryType::GNULongName, "x", "", &big), (FILE, "y", "", b"")]);
    assert!(refused(&long).contains("an extension header is larger"));
    let size = hostile(&[(EntryType::XHeader, "x", "", b"12 size=999\n"), (FILE, "y", "", b"")]);
    assert!(refused(&size).contains("a size in an extension header"));
}

#[test]
fn a_truncated_archive_is_an_error() {
    let whole = hostile(&[(FILE, "x", "", &[7; 2000])]);
    assert!(refused(&whole[..1024]).contains("ends in the middle"));
}

#[test]
fn names_of_extension_headers_are_judged_too() {
    let told = refused(&hostile(&[(EntryType::XHeader, "x", "", b"16 path=../evil\n"), (FILE, "y", "", b"x")]));
    assert!(told.contains("../evil"), "{told}");
    let told = refused(&hostile(&[(EntryType::GNULongName, "x", "", b"../evil\0"), (FILE, "y", "", b"x")]));
    assert!(told.contains("../evil"), "{told}");
    let told = refused(&hostile(&[(EntryType::GNULongLink, "x", "", b"/etc/passwd\0"), (LINK, "y", "z", b"")]));
    assert!(told.contains("may leave"), "{told}");
}

#[test]
fn packing_refuses_what_unpacking_would() {
    let dir = TempDir::new().unwrap();
    let (root, to) = (dir.path().join("root"), dir.path().join("a"));
    fs::create_dir_all(root.join("real")).unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    fs::write(root.join("real/f"), "f").unwrap();
    symlink("../secret", root.join("out")).unwrap();
    symlink("real", root.join("alias")).unwrap();
    symlink("../out", root.join("real/ok")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let try_one = |name: &str| pack(&root, &[name.into()], &to, &LIMITS);
    assert!(matches!(try_one("out"), Err(ArchiveError::LinkLeaves { .. })));
    assert!(matches!(try_one("alias/f"), Err(ArchiveError::ThroughLink { .. })));
    assert!(matches!(try_one("../secret"), Err(ArchiveError::Outside { .. })));
    assert!(matches!(try_one("/etc/passwd"), Err(ArchiveError::Outside { .. })));
    assert!(matches!(try_one("pipe"), Err(ArchiveError::Kind { .. })));
    assert!(try_one("real/ok").is_ok(), "a link to a link is judged where that one is");
    let tight = ArchiveLimits { entries_max: 1000, bytes_max: 0 };
    assert!(matches!(pack(&root, &["real/f".into()], &to, &tight), Err(ArchiveError::TooMuch { what: "bytes", .. })));
}

#[test]
fn a_listing_is_sorted_without_git_and_without_special_files() {
    let dir = TempDir::new().unwrap();
    for name in [".git/HEAD", "sub/.git", "b", "a/z", "a.x"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), "").unwrap();
    }
    symlink("/", dir.path().join("root")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let names: Vec<_> = list_tree(dir.path(), 10).unwrap();
    assert_eq!(names, ["a.x", "a/z", "b", "root"].map(PathBuf::from));
    assert!(list_tree(dir.path(), 3).is_err());
}

/// A folder becomes a link to another one and back, as fast as can be, while it is packed again and again.
#[test]
fn what_is_swapped_for_a_link_while_it_is_packed_leads_nowhere() {
    let dir = TempDir::new().unwrap();
    let (root, to, outside) = (dir.path().join("root"), dir.path().join("a"), dir.path().join("outside"));
    for folder in [&root.join("dist"), &outside] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(root.join("dist/f"), "mine").unwrap();
    fs::write(outside.join("f"), "secret").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut packed, mut refused, mut leaked) = (0, 0, false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dist, aside) = (root.join("dist"), root.join("aside"));
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&dist, &aside).unwrap();
                symlink(&outside, &dist).unwrap();
                fs::remove_file(&dist).unwrap();
                fs::rename(&aside, &dist).unwrap();
            }
        });
        for _ in 0..5_000 {
            match pack(&root, &["dist/f".into()], &to, &LIMITS) {
                Ok(_) => packed += 1,
                Err(_) => {
                    refused += 1;
                    continue;
                }
            }
            let bytes = zstd::decode_all(fs::File::open(&to).unwrap()).unwrap();
            leaked = bytes.windows(6).any(|part| part == b"secret");
            if leaked || packed > 100 && refused > 100 {
                break;
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(!leaked, "it was read through the link");
    assert!(packed > 0 && refused > 0, "{packed} packed, {refused} refused: both sides of the race are seen");
}
