//! The wall clock of this tool: what a person says is said now.
#![allow(clippy::disallowed_methods, reason = "the clock's one home in this tool")]

use chrono::{DateTime, Utc};

pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}
#[cfg(test)]
mod tryout {
    #[tokio::test]
    async fn throwaway_broker() {
        let Some(dir) = std::env::var_os("TRYOUT") else { return };
        let home = crate::home::Home::new(std::path::Path::new(&dir)).unwrap();
        home.create().unwrap();
        let progress = |l: &str| println!("{l}");
        let inst = bot_provision::Installation::find(std::path::Path::new("/work/main/.cache/lota"), &progress).await.unwrap();
        let mut node = bot_provision::Node::start(bot_provision::NodeOptions::new(&home.join("broker"), inst), &progress).await.unwrap();
        crate::home::write_private(&home.password_file(node.admin()), node.admin_password().expose().as_bytes()).unwrap();
        home.write_record(&crate::home::FleetRecord {
            amqp_url: format!("amqp://127.0.0.1:{}/{}", node.amqp_port(), node.vhost()),
            management_url: format!("http://127.0.0.1:{}", node.management_port()),
            admin: node.admin().to_owned(), own_broker: true, supervisor_pid: 1, supervisor_started: 1,
        }).unwrap();
        for _ in 0..1200 {
            if home.join("stop").exists() { break; }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        node.stop().await.unwrap();
    }
}
