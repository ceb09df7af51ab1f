//! Temporary.
use bot_provision::*;
use std::time::Instant;
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = Instant::now();
    let tell = |l: &str| println!("{:6.1} {l}", t.elapsed().as_secs_f32());
    match a[1].as_str() {
        "find" => println!(
            "{:?}",
            Installation::find(a[2].as_ref(), &tell)
                .await
                .map_err(|e| e.to_string())
        ),
        "bwrap" => println!(
            "{:?}",
            PackageCache::new(&a[2])
                .ensure(Bundle::Bubblewrap, &tell)
                .await
                .map_err(|e| e.to_string())
        ),
        "start" => {
            let i = match Installation::find(a[2].as_ref(), &tell).await {
                Ok(i) => i,
                Err(e) => {
                    println!("ERROR {e}");
                    std::process::exit(1)
                }
            };
            let mut o = NodeOptions::new(&a[3], i);
            o.die_with_parent = a.get(4).is_some_and(|x| x == "die");
            match Node::start(o, &tell).await {
                Ok(n) => {
                    println!(
                        "{:?} {:?}",
                        n.record().ports,
                        n.management().unwrap().overview().await.unwrap()
                    );
                    if a.get(4).is_some() {
                        tokio::time::sleep(std::time::Duration::from_secs(120)).await;
                    }
                }
                Err(e) => println!("ERROR {e}"),
            }
        }
        "stop" => {
            let mut n = Node::attach(a[2].as_ref()).unwrap().unwrap();
            println!("{:?} {:.1}s", n.stop().await, t.elapsed().as_secs_f32());
        }
        _ => {}
    }
}
