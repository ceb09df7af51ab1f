//! What the file may say, and how its mistakes are told.
use super::*;

fn base() -> Base<'static> {
    Base { bot: Path::new("/bot"), config: Path::new("/config") }
}

const LOCAL: &str = "local:\n  repositories: [\"*\"]\n  refs: [\"refs/heads/*\"]\n  target: {type: directory, path: environments/local}\n";

fn local(more: &str) -> Environment {
    parse(&format!("{LOCAL}{more}"), base()).unwrap().remove("local").unwrap()
}

fn revision(repository: &str, git_ref: &str) -> Revision {
    let url = format!("https://git.example.org/{repository}.git");
    Revision { repository: repository.into(), url, git_ref: git_ref.into(), ..Revision::example() }
}

#[test]
fn a_short_entry_has_sensible_limits() {
    let local = local("");
    assert_eq!(local.root, Path::new("/bot/environments/local"));
    assert!(local.serves && local.port.is_none() && local.keep == 5);
    assert_eq!(local.health_deadline_max, Duration::from_secs(60));
    assert_eq!(local.limits, ServeLimits { memory_bytes: 512 * MIB, processes: 256, log_bytes: 10 * MIB });
    assert_eq!(local.admits(&revision("shop/api", "refs/heads/feature/x")), Ok(()));
    let refused = local.admits(&revision("shop/api", "refs/tags/v1")).unwrap_err();
    assert_eq!(refused, "takes nothing from refs/tags/v1: only from refs/heads/*");
}

#[test]
fn a_repository_fits_by_name_or_address_and_a_star_stays_in_its_part() {
    let text = LOCAL.replace("\"*\"", "\"shop/*\", \"https://git.example.org/tools/**\"");
    let local = parse(&text, base()).unwrap().remove("local").unwrap();
    assert!(local.admits(&revision("shop/api", "refs/heads/main")).is_ok());
    assert!(local.admits(&revision("tools/a/b", "refs/heads/main")).is_ok());
    let refused = local.admits(&revision("shop/evil/api", "refs/heads/main")).unwrap_err();
    assert!(refused.starts_with("takes nothing from the repository shop/evil/api"), "{refused}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = format!(
        "{LOCAL}  keep: 1\n  port: none\n  helth: {{}}\nother:\n  refs: []\n  target: {{type: ftp, path: x}}\n  limits: {{memory: 3}}\n\"a b\": {{}}\n"
    );
    let told = listed(Path::new("conf/e.yaml"), &parse(&text, base()).unwrap_err());
    for mistake in [
        "e.yaml:5:9: local.keep: expected 2",
        "e.yaml:6:9: local.port: expected auto or a number",
        "e.yaml:7:10: local.helth: is not known",
        "did you mean `health`?",
        "e.yaml:9:3: other.repositories: is missing",
        "e.yaml:9:9: other.refs: is empty",
        "e.yaml:10:18: other.target.type: unknown variant `ftp`",
        "e.yaml:11:20: other.limits.memory: unknown field `memory`",
        "e.yaml:12:8: `a b` is no name",
    ] {
        assert!(told.contains(mistake), "{mistake} is not in\n{told}");
    }
}

#[test]
fn gates_are_read_and_their_mistakes_told_in_their_place() {
    let text = LOCAL.replace("local", "prod")
        + "  requires: [test.completed, build.completed]\n  promote_from: local\n  approval: {required: true, expires: 4h}\n"
        + "  freeze:\n    - {days: [fri], from: '16:00', to: '24:00', timezone: Europe/Berlin, reason: weekend}\n";
    let environments = parse(&format!("{LOCAL}{text}"), base()).unwrap();
    let prod = &environments["prod"];
    assert_eq!((prod.requires.len(), prod.promote_from.as_deref()), (2, Some("local")));
    assert_eq!(prod.approval, Some(Duration::from_secs(4 * 3600)));
    let friday = DateTime::from_timestamp(1_795_190_400, 0).unwrap();
    assert_eq!(prod.frozen(friday).unwrap().reason, "weekend");
    assert_eq!(environments["local"].frozen(friday), None);

    let wrong = "  requires: [tests.completed]\n  promote_from: lokal\n  approval: {required: true, expires: 0s}\n  freeze: [{from: a, until: b, reason: z}, {form: x}]\n";
    let told = listed(Path::new("e.yaml"), &parse(&format!("{LOCAL}{wrong}"), base()).unwrap_err());
    for mistake in [
        "e.yaml:5:14: local.requires.0: `tests.completed` vouches for no artifact",
        "did you mean `test.completed`?",
        "local.requires: leaves out test.completed",
        "e.yaml:6:17: local.promote_from: there is no environment `lokal`: expected one of local; did you mean `local`?",
        "e.yaml:7:39: local.approval.expires: expected more than zero",
        "e.yaml:8:51: local.freeze.1.form: unknown field `form`, expected",
        "did you mean `from`?",
    ] {
        assert!(told.contains(mistake), "{mistake} is not in\n{told}");
    }
    let itself = parse(&format!("{LOCAL}  promote_from: local\n"), base()).unwrap_err();
    assert!(itself[0].what.contains("no environment may wait for itself"), "{itself:?}");
}

#[test]
fn two_environments_never_share_a_folder_or_a_port() {
    let text = format!("{LOCAL}  port: 8600\n{}  port: 8600\n", LOCAL.replace("local:", "twin:"));
    let told = parse(&text, base()).unwrap_err();
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn no_file_and_an_empty_file_are_no_environments() {
    assert!(read(Path::new("/nowhere/environments.yaml"), base()).unwrap().is_empty());
    assert!(parse("# nothing yet\n", base()).unwrap().is_empty());
}

#[test]
fn a_broken_file_says_where() {
    let told = parse("local:\n  refs: [\n", base()).unwrap_err();
    assert_eq!(told[0].at, Some((2, 9)), "{told:?}");
    let error = EnvironmentsError { path: "environments.yaml".into(), mistakes: told };
    let expected = "environments.yaml cannot be used:\n  - environments.yaml:2:9: ";
    assert!(error.to_string().starts_with(expected), "{error}");
}

fn with_target(target: &str) -> Result<Scripts, String> {
    let text = LOCAL.replace("{type: directory, path: environments/local}", target);
    let environments = parse(&text, base()).map_err(|told| listed(Path::new("e.yaml"), &told))?;
    match &environments["local"].target {
        Target::Scripts(scripts) => Ok((**scripts).clone()),
        Target::Directory => panic!("a folder"),
    }
}

#[test]
fn commands_are_a_target_with_its_own_mistakes() {
    let scripts = with_target("{type: command, deploy: ./up, secrets: [TOKEN], env: {REGION: eu}}").unwrap();
    assert_eq!((scripts.deploy.as_str(), scripts.verify, scripts.network), ("./up", None, true));
    assert_eq!(scripts.timeout, Duration::from_secs(600));
    let told =
        with_target("{type: command, deploy: ' ', secrets: ['../x'], env: {LOTA_HEX: a}, timeout: 2h}").unwrap_err();
    for mistake in [
        "local.target.deploy: is empty",
        "local.target.secrets: `../x` is no name of a variable",
        "local.target.env: `LOTA_HEX` is no name of a variable",
        "local.target.timeout: expected more than zero and at most 1h",
    ] {
        assert!(told.contains(mistake), "{mistake} is not in\n{told}");
    }
    let told = with_target("{type: command, deploi: ./up}").unwrap_err();
    assert!(told.contains("unknown field `deploi`") && told.contains("did you mean `deploy`?"), "{told}");
}

#[test]
fn another_host_is_a_target_and_nothing_of_it_reaches_a_shell_as_a_command() {
    let ssh = "{type: ssh, host: app1, user: deploy, path: /srv/shop/, key: id, known_hosts: known, restart: 'a; b'}";
    let scripts = with_target(ssh).unwrap();
    assert_eq!(scripts.env["LOTA_SSH_PATH"], "/srv/shop");
    assert_eq!(scripts.files["LOTA_SSH_KNOWN_HOSTS"], Path::new("/config/known"));
    assert_eq!(scripts.secret_files["LOTA_SSH_KEY"], "id");
    assert!(scripts.deploy.contains("StrictHostKeyChecking=yes") && scripts.deploy.contains("\na; b\n"));
    for (right, wrong, field) in [
        ("host: app1", "host: -oProxyCommand=x", "host"),
        ("user: deploy", "user: 'a b'", "user"),
        ("path: /srv/shop/", "path: \"/srv/$(x)\"", "path"),
        ("path: /srv/shop/", "path: /srv/../etc", "path"),
        ("path: /srv/shop/", "path: srv", "path"),
        ("key: id", "key: ../id", "key"),
    ] {
        let told = with_target(&ssh.replace(right, wrong)).unwrap_err();
        assert!(told.contains(&format!("local.target.{field}: expected")), "{wrong}: {told}");
    }
}

#[test]
fn mistakes_of_a_compose_target_are_told_at_once() {
    let text = "a:
  repositories: ['*']
  refs: [refs/heads/main]
  target: {type: compose, project: Shop, file: ../x.yaml, socket: docker.sock, env: {LOTA_X: z}}
b:
  repositories: ['*']
  refs: [refs/heads/main]
  target: {type: compose, project: shop, file: own.yaml, allow_host: true, image: {archive: /app.tar, name: 'shop/app:1'}}
c:
  repositories: ['*']
  refs: [refs/heads/main]
  target: {type: compose, project: pair, file: compose.yaml}
d:
  repositories: ['*']
  refs: [refs/heads/main]
  target: {type: compose, project: pair, file: compose.yaml}
";
    let told = listed(Path::new("conf/e.yaml"), &parse(text, base()).unwrap_err());
    for mistake in [
        "a.target.env: `LOTA_X` is no name of a variable",
        "a.target.project: expected small letters",
        "a.target.file: expected a path inside the release",
        "a.target.socket: expected the absolute path",
        "b.target.image.archive: expected a path inside the release",
        "b.target.image.name: expected the name that the archive may take",
        "b.target.allow_host: is of a release's own file",
        "d.target.project: c has the same project",
    ] {
        assert!(told.contains(mistake), "{mistake} is not in\n{told}");
    }
}

#[test]
fn a_compose_target_looks_at_a_releases_own_file_and_not_at_the_operators() {
    let project = |target: &str| {
        let text = LOCAL.replace("{type: directory, path: environments/local}", target);
        let local = parse(&text, base()).unwrap().remove("local").unwrap();
        let Target::Scripts(scripts) = local.target else { panic!("{target}") };
        (scripts.project.clone().unwrap(), *scripts)
    };
    let (own, scripts) = project("{type: compose, project: shop, file: compose.yaml}");
    assert!(own.is_judged && own.resolve.contains("LOTA_COMPOSE_DIR=$LOTA_RELEASE"));
    assert!(scripts.files.is_empty() && scripts.rollback.unwrap().contains("down --remove-orphans"));
    assert!(!project("{type: compose, project: shop, file: compose.yaml, allow_host: true}").0.is_judged);
    let (archive, scripts) =
        project("{type: compose, project: shop, file: own.yaml, image: {archive: a.tar, name: shop/a}}");
    assert!(!archive.is_judged && scripts.deploy.starts_with("loaded=$(docker load"));
    assert_eq!(scripts.files["LOTA_COMPOSE_FILE"], Path::new("/config/own.yaml"));
    assert_eq!(scripts.env["LOTA_COMPOSE_DIR"], "/config");
}
