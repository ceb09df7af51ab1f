//! The broker goes away for half a minute and comes back: every bot works again within seconds, without a restart.
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use bot_provision::Node;
use tests::{Fleet, succeeds, wait_for};

const BOTS: [(&str, &str); 4] =
    [("build-bot", "BuildBot"), ("test-bot", "TestBot"), ("deploy-bot", "DeployBot"), ("monitor-bot", "MonitorBot")];
/// As promised; counted from the moment the broker's port accepts.
const BACK_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn every_bot_is_back_soon_after_the_broker() {
    let fleet = Fleet::start();
    let before = BOTS.map(|(slug, _)| fleet.pid(slug));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut node = Node::attach(&fleet.home().join("broker")).unwrap().unwrap();
    let port = node.amqp_port();
    runtime.block_on(node.stop()).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the broker still answers");
    // The outage itself: the one wait that is a length of time.
    std::thread::sleep(Duration::from_secs(30));
    let restart = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(node.restart(&|_| {})).unwrap();
    });
    wait_for("the broker's port", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).ok());
    let accepting = Instant::now();
    // A probe is answered only by a bot that consumes, acknowledges, and gets a publish confirmed.
    for (slug, name) in BOTS {
        wait_for(&format!("{name} to answer"), BACK_WITHIN.saturating_sub(accepting.elapsed()), || {
            fleet.lota(&["probe", name]).output().ok().filter(|o| o.status.success())
        });
        assert_eq!(fleet.pid(slug), before[BOTS.iter().position(|b| b.0 == slug).unwrap()], "{name} was restarted");
    }
    restart.join().unwrap();
    succeeds(&mut fleet.lota(&["topology", "verify"]));
}

#[test]
fn a_broker_that_is_killed_is_started_again() {
    let fleet = Fleet::start();
    let dir = fleet.home().join("broker");
    let before = Node::attach(&dir).unwrap().unwrap().record().process.unwrap();
    let group = nix::unistd::Pid::from_raw(before.pid.cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("another node", Duration::from_secs(60), || {
        Node::attach(&dir).unwrap().filter(|node| node.record().process != Some(before))
    });
    wait_for("BuildBot to answer", Duration::from_secs(60), || {
        fleet.lota(&["probe", "BuildBot"]).output().ok().filter(|output| output.status.success())
    });
    succeeds(&mut fleet.lota(&["topology", "verify"]));
}
