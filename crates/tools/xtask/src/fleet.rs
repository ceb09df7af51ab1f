//! The fleet: every bot of the workspace, once. Contracts, schemas, permissions and documents follow from this list.
use bot_core::{Bot, config_schema, contract_of};
use bot_messages::Contract;
use schemars::Schema;

/// One bot, as data.
pub(crate) struct Member {
    pub(crate) contract: Contract,
    /// Of its configuration file.
    pub(crate) config_schema: Schema,
}

/// All bots, by their names on the broker.
pub(crate) fn fleet() -> Vec<Member> {
    let mut members = vec![
        member::<build_bot::BuildBot>(),
        member::<deploy_bot::DeployBot>(),
        member::<monitor::MonitorBot>(),
        member::<test_bot::TestBot>(),
    ];
    members.sort_by_key(|member| member.contract.name.slug());
    members
}

fn member<B: Bot>() -> Member {
    Member { contract: contract_of::<B>(), config_schema: config_schema::<B::Config>() }
}
