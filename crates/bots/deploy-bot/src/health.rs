//! Whether an application answers. Asks by HTTP or TCP on this machine only; what follows from the answer is not here.
use std::time::Duration;

use bot_messages::pipeline::Health;
use reqwest::{Client, redirect::Policy};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// One question may take this long; an application that is still starting often accepts and then hangs.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// GET; 200 to 299 is healthy.
    Http(String),
    /// A connection is healthy: the pipeline asks for an application and names no path.
    Tcp(u16),
}

impl Question {
    pub(crate) fn new(port: u16, health: Option<&Health>) -> Self {
        match health {
            // A path always begins with `/`, so that it can never become a part of the host.
            Some(health) => Self::Http(format!("{}{}", base_url(port), health.path.trim_start_matches('/'))),
            None => Self::Tcp(port),
        }
    }

    /// Where others ask the same, who reach this machine by that name; none where no browser could.
    pub(crate) fn url_at(&self, host: &str) -> Option<String> {
        match self {
            Self::Http(url) => Some(url.replacen("127.0.0.1", host, 1)),
            Self::Tcp(_) => None,
        }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url),
            Self::Tcp(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}

/// Where an application on this machine is.
pub(crate) fn base_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}

/// Without proxies, redirects or kept connections: the answer has to come from the process that was started last.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .tls_certs_only([])
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_MAX)
        .timeout(ANSWER_MAX)
        .build()
}

/// How the questions ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Healthy,
    /// The deadline came; what it did instead of answering well, as the end of a sentence.
    NotInTime(String),
    /// The application ended.
    Gone,
    /// The caller has to stop.
    Stopped,
}

/// Asks until the answer is good, the deadline comes, `is_running` says no, or `stopped` says yes.
pub(crate) async fn ask(
    client: &Client,
    question: &Question,
    deadline: Duration,
    is_running: impl Fn() -> bool,
    stopped: impl Fn() -> bool,
) -> Answer {
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_MIN;
    let mut last = "did not answer".to_owned();
    loop {
        if stopped() {
            return Answer::Stopped;
        }
        if !is_running() {
            return Answer::Gone;
        }
        match timeout(end.saturating_duration_since(Instant::now()), once(client, question)).await {
            // It counts only if the application that was started is the one that answered.
            Ok(Ok(())) if is_running() => return Answer::Healthy,
            Ok(Ok(())) => return Answer::Gone,
            Ok(Err(said)) => last = said,
            Err(_) => {}
        }
        if Instant::now() + pause >= end {
            return Answer::NotInTime(last);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn once(client: &Client, question: &Question) -> Result<(), String> {
    match question {
        Question::Http(url) => match client.get(url).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("answered {}", response.status().as_u16())),
            Err(error) if error.is_connect() => Err("accepted no connection".to_owned()),
            Err(error) if error.is_timeout() => Err(format!("did not answer within {} s", ANSWER_MAX.as_secs())),
            Err(error) => Err(format!("did not answer ({})", error.without_url())),
        },
        Question::Tcp(port) => {
            let connected = TcpStream::connect(("127.0.0.1", *port)).await;
            connected.map(drop).map_err(|_| "accepted no connection".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers each connection with the next of these, the last one for ever.
    fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let status = answers[count.min(answers.len() - 1)];
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nlocation: /ok\r\nconnection: close\r\n\r\n"
                );
            }
        });
        port
    }

    async fn asked(port: u16, deadline_ms: u64, running: bool, stopped: bool) -> Answer {
        let question = Question::new(port, Some(&Health::default()));
        ask(&client().unwrap(), &question, Duration::from_millis(deadline_ms), || running, || stopped).await
    }

    #[tokio::test]
    async fn a_late_yes_is_a_yes() {
        let port = server(&["503 Starting", "503 Starting", "204 No Content"]);
        assert_eq!(asked(port, 10_000, true, false).await, Answer::Healthy);
    }

    #[tokio::test]
    async fn what_it_said_last_is_told() {
        let port = server(&["500 Broken"]);
        assert_eq!(asked(port, 200, true, false).await, Answer::NotInTime("answered 500".into()));
        let port = server(&["302 Found"]);
        let told = asked(port, 200, true, false).await;
        assert_eq!(told, Answer::NotInTime("answered 302".into()), "a redirect leads elsewhere, so it is no answer");
        assert_eq!(asked(1, 100, true, false).await, Answer::NotInTime("accepted no connection".into()));
    }

    #[tokio::test]
    async fn an_application_that_ended_is_not_waited_for() {
        assert_eq!(asked(1, 60_000, false, false).await, Answer::Gone);
        assert_eq!(asked(1, 60_000, true, true).await, Answer::Stopped);
    }

    #[test]
    fn a_path_never_changes_the_host() {
        let health = Health { path: "@evil.example/x".into(), ..Health::default() };
        let question = Question::new(8600, Some(&health));
        assert_eq!(question.url_at("127.0.0.1").unwrap(), "http://127.0.0.1:8600/@evil.example/x");
        assert_eq!(question.url_at("deploy-bot").unwrap(), "http://deploy-bot:8600/@evil.example/x");
        assert_eq!(Question::new(8600, None).to_string(), "127.0.0.1:8600");
    }
}
