//! Clients of the services bots use, each a trait with the real client and a fake.
