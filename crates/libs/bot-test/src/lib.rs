//! What tests share: private brokers, a vhost per test, conversations on an in-process bus, fixtures. A dev-dependency only.
