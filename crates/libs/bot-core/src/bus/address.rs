//! Where the broker is: one address, or one for each node of a cluster. Read before anything is connected.
use lapin::uri::{AMQPScheme, AMQPUri};

/// More nodes than a cluster has.
const ADDRESSES_MAX: usize = 16;
const EXPECTED: &str = "expected amqp://host:port/vhost, or one for each node of a cluster, joined by commas";

/// Reads a list of addresses, `amqp://host:port/vhost` or `amqps://…`, joined by commas. They are one broker's, so they
/// agree in scheme and vhost, and none says user or password. No error repeats an address that may hold one.
pub(crate) fn addresses(list: &str) -> Result<Vec<String>, String> {
    let addresses: Vec<String> = list.split(',').map(|address| address.trim().to_owned()).collect();
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("it holds {} addresses: at most {ADDRESSES_MAX} are taken", addresses.len()));
    }
    let mut first: Option<(AMQPScheme, String)> = None;
    for (n, address) in addresses.iter().enumerate() {
        let n = n + 1;
        if address.is_empty() {
            return Err(format!("its address {n} is empty: {EXPECTED}"));
        }
        let authority = address.split_once("://").map_or(address.as_str(), |(_, rest)| rest);
        if authority.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return Err(format!(
                "its address {n} says a user: leave that out; LOTA_AMQP_USER names the user, LOTA_AMQP_PASSWORD_FILE \
                 the file with the password"
            ));
        }
        let uri: AMQPUri =
            address.parse().map_err(|e| format!("`{address}` is no address of a broker ({e}): {EXPECTED}"))?;
        let said = (uri.scheme, uri.vhost);
        match &first {
            None => first = Some(said),
            Some(first) if *first == said => {}
            Some(_) => {
                return Err(format!(
                    "`{address}` differs from the first address in scheme or vhost: all are nodes of one cluster, and a \
                     bot goes from one to the other"
                ));
            }
        }
        if addresses[..n - 1].contains(address) {
            return Err(format!("`{address}` is there twice: leave one out"));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_its_order() {
        let read = addresses("amqp://a:5673/lota, amqp://b/lota ,amqp://[::1]:5672/lota").unwrap();
        assert_eq!(read, ["amqp://a:5673/lota", "amqp://b/lota", "amqp://[::1]:5672/lota"]);
        assert_eq!(addresses("amqps://mq.example.org/lota").unwrap(), ["amqps://mq.example.org/lota"]);
    }

    #[test]
    fn what_is_no_list_is_told_without_its_secrets() {
        for (list, words) in [
            ("", "address 1 is empty"),
            ("amqp://a/lota,", "address 2 is empty"),
            ("localhost:5672", "`localhost:5672` is no address"),
            ("http://a/lota", "expected amqp://host:port/vhost"),
            ("amqp://a:99999/lota", "is no address"),
            ("amqp://a/lota,amqp://bot:canary@b/lota", "address 2 says a user"),
            ("bot:canary@a", "address 1 says a user"),
            ("amqp://a/lota,amqps://b/lota", "differs from the first"),
            ("amqp://a/lota,amqp://b/other", "differs from the first"),
            ("amqp://a/lota,amqp://a/lota", "there twice"),
            (&["amqp://a/lota"; 17].join(","), "17 addresses"),
        ] {
            let told = addresses(list).unwrap_err();
            assert!(told.contains(words) && !told.contains("canary"), "{list}: {told}");
        }
    }
}
