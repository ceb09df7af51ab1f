//! DeployBot puts tested artifacts into environments, and takes them back.
