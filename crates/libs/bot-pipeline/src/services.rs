//! What runs beside a command: databases and the like, each started fresh before it and ended after it. They run in the
//! same run of the sandbox as the command, since each run has a network of its own; so a shell script (`services.sh`)
//! starts them, waits until they can be used, and ends them. What they print is marked with their names on its way here.
use std::collections::{BTreeMap, VecDeque};

use bot_messages::pipeline::Service;

const SCRIPT: &str = include_str!("services.sh");
/// Where a service says nothing else, seconds.
const WITHIN_S: u64 = 60;
/// Before a marked line, and between the name and why a service cannot be used.
const MARK: char = '\u{1e}';
/// Between the name and the text of a line.
const SAID: char = '\u{1f}';
/// Last lines of a service that are told when it cannot be used.
const LAST_LINES: usize = 10;
const LINE_CHARS: usize = 300;

/// Which service said a line, and what; `None` if it is the command's own.
pub fn said_by(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix(MARK)?.split_once(SAID)
}

/// The command with what starts its services before it and ends them after it.
pub(crate) fn wrap(run: &str, services: &[Service]) -> String {
    if services.is_empty() {
        return run.to_owned();
    }
    let mut script = SCRIPT.to_owned();
    for service in services {
        let ready = &service.ready;
        let (kind, what) = match (&ready.tcp, &ready.http, &ready.log) {
            (Some(port), _, _) => ("tcp", port.as_str()),
            (_, Some(path), _) => ("http", path.as_str()),
            (_, _, Some(text)) => ("log", text.as_str()),
            _ => ("tcp", "$PORT"),
        };
        let within = ready.within.map_or(WITHIN_S, |span| span.0.as_secs_f64().ceil() as u64).max(1).to_string();
        let variable = service.port_variable();
        let words = [&service.name, &variable, kind, what, &within, &service.run];
        let env = service.env.iter().map(|(name, value)| quoted(&format!("{name}={value}")));
        let words: Vec<String> = words.into_iter().map(quoted).chain(env).collect();
        script.push_str(&format!("service {}\n", words.join(" ")));
    }
    script.push_str(&format!("finish {}\n", quoted(run)));
    script
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Listens to what services print, so that the end of one that cannot be used can be told with its last words.
pub(crate) struct Listener {
    last: BTreeMap<String, VecDeque<String>>,
    /// The first that could not be used, and why.
    trouble: Option<(String, String)>,
}

impl Listener {
    pub(crate) fn new(services: &[Service]) -> Self {
        let last = services.iter().map(|service| (service.name.clone(), VecDeque::new())).collect();
        Self { last, trouble: None }
    }

    /// A line of the run; what is to be shown of it.
    pub(crate) fn hear(&mut self, line: &str) -> Option<String> {
        if let Some((name, text)) = said_by(line) {
            if let Some(last) = self.last.get_mut(name) {
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(text.chars().take(LINE_CHARS).collect());
            }
            return None;
        }
        let (name, why) = line.strip_prefix(MARK)?.split_once(MARK)?;
        if !self.last.contains_key(name) {
            return None;
        }
        self.trouble.get_or_insert_with(|| (name.to_owned(), why.to_owned()));
        Some(format!("{MARK}{name}{SAID}{why}"))
    }

    /// Why the run was in vain, if a service could not be used.
    pub(crate) fn trouble(&self, title: &str) -> Option<String> {
        let (name, why) = self.trouble.as_ref()?;
        let last: Vec<&str> = self.last.get(name).into_iter().flatten().map(String::as_str).collect();
        let last = if last.is_empty() {
            "it printed nothing".to_owned()
        } else {
            format!("its last lines: {}", last.join(" | "))
        };
        Some(format!("{title}: the service `{name}` {why}; {last}"))
    }
}

/// Lines as people read them.
pub(crate) fn unmarked(lines: Vec<String>) -> Vec<String> {
    let plain = |line: String| match said_by(&line) {
        Some((name, text)) => Some(format!("[{name}] {text}")),
        None if line.starts_with(MARK) => None,
        None => Some(line),
    };
    lines.into_iter().filter_map(plain).collect()
}

#[cfg(test)]
mod tests {
    use bot_messages::pipeline::Ready;

    use super::*;

    #[test]
    fn lines_of_services_are_told_from_the_commands_own() {
        assert_eq!(said_by("\u{1e}db\u{1f}ready"), Some(("db", "ready")));
        assert_eq!(said_by("ready"), None);
        let lines = ["\u{1e}db\u{1f}ready".to_owned(), "\u{1e}db\u{1e}ended".to_owned(), "own".to_owned()];
        assert_eq!(unmarked(lines.to_vec()), ["[db] ready", "own"]);
    }

    #[test]
    fn only_a_service_that_there_is_can_be_in_trouble() {
        let service = Service { name: "db".into(), run: "x".into(), ready: Ready::default(), env: BTreeMap::new() };
        let mut listener = Listener::new(&[service]);
        assert_eq!(listener.hear("\u{1e}web\u{1e}ended"), None);
        assert_eq!(listener.trouble("suite `unit`"), None);
        for i in 0..20 {
            listener.hear(&format!("\u{1e}db\u{1f}line {i}"));
        }
        assert_eq!(listener.hear("\u{1e}db\u{1e}ended early"), Some("\u{1e}db\u{1f}ended early".to_owned()));
        let told = listener.trouble("suite `unit`").unwrap();
        assert!(told.starts_with("suite `unit`: the service `db` ended early; its last lines: line 10 | "), "{told}");
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
