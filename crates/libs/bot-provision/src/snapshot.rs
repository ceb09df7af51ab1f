//! What a vhost holds at one moment, read through the management API. Compared in `plan.rs`.

use crate::management::{Management, ManagementError};
use crate::management_types::{
    BindingInfo, ExchangeInfo, Permission, PolicyInfo, QueueInfo, TopicPermissionInfo, UserInfo, UserLimits,
};

/// Users and permissions are of the whole broker, the rest of the vhost.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) vhost_exists: bool,
    pub(crate) exchanges: Vec<ExchangeInfo>,
    pub(crate) queues: Vec<QueueInfo>,
    pub(crate) bindings: Vec<BindingInfo>,
    pub(crate) policies: Vec<PolicyInfo>,
    pub(crate) users: Vec<UserInfo>,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) topic_permissions: Vec<TopicPermissionInfo>,
    pub(crate) limits: Vec<(String, UserLimits)>,
    /// Whom we ask as; never touched.
    pub(crate) own_user: String,
}

impl Snapshot {
    pub(crate) async fn read(api: &Management, vhost: &str) -> Result<Self, ManagementError> {
        let mut snapshot = Self {
            vhost_exists: api.vhosts().await?.iter().any(|name| name == vhost),
            users: api.users().await?,
            permissions: api.permissions().await?,
            topic_permissions: api.topic_permissions().await?,
            limits: api.user_limits().await?,
            own_user: api.user().to_owned(),
            ..Self::default()
        };
        if snapshot.vhost_exists {
            snapshot.exchanges = api.exchanges(vhost).await?;
            snapshot.queues = api.queues(vhost).await?;
            snapshot.bindings = api.bindings(vhost).await?;
            snapshot.policies = api.policies(vhost).await?;
        }
        Ok(snapshot)
    }

    pub(crate) fn limits_of(&self, user: &str) -> UserLimits {
        let found = self.limits.iter().find(|(name, _)| name == user);
        found.map(|(_, limits)| *limits).unwrap_or_default()
    }
}
