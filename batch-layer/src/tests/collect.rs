use std::time::SystemTime;

use storage::paths::{ViewFilePath, view_folder};

use super::*;
use crate::collect::{Collected, collect};

const GRACE: Duration = Duration::from_secs(3600);

async fn names(master: &Master) -> BTreeSet<String> {
    let listed = master.store.list(&view_folder(&view())).await.unwrap();
    listed.into_iter().map(|object| object.location.to_string()).collect()
}

/// Proves that behind a publish the files of runs that lost or died go when they are older than the grace period, and that what a
/// manifest names, what is younger, and the folder of a version that is not published yet stay.
#[tokio::test]
async fn leftovers() {
    let mut master = Master::with(&random_events(1, 50)).await;
    master.publish(&master.options()).await;
    master.append(&[event("user-new", "n", 0, 1)]).await;
    master.publish(&master.options()).await;
    let named = names(&master).await;

    let leave = async |version: i64, run_id: &str| {
        let path = ViewFilePath { view: view(), version, run_id: run_id.parse().unwrap(), part: 0 }.path();
        master.store.put_durable(&path, "left".into()).await.unwrap();
        path.to_string()
    };
    let dead = leave(2, "dead").await;
    let coming = leave(3, "coming").await;
    let with = |more: &[&String]| named.iter().chain(more.iter().copied()).cloned().collect::<BTreeSet<String>>();

    let at = async |age: Duration| collect(&master.store, &view(), GRACE, SystemTime::now() + age).await;
    assert_eq!(at(Duration::ZERO).await.unwrap(), Collected::default());
    assert_eq!(names(&master).await, with(&[&dead, &coming]));
    assert_eq!(at(GRACE * 2).await.unwrap(), Collected { files: 1, staged: 0 });
    assert_eq!(names(&master).await, with(&[&coming]));
    assert_eq!(master.publish(&RunOptions { force: true, ..master.options() }).await.version, 3);
    assert!(names(&master).await.contains(&coming));

    // A manifest that cannot be read may name any file.
    let dead = leave(1, "dead").await;
    let damaged = names(&master).await.into_iter().find(|name| name.ends_with("0001.json")).unwrap();
    master.store.put_durable(&damaged.as_str().into(), "{".into()).await.unwrap();
    assert!(at(GRACE * 2).await.is_err());
    assert!(names(&master).await.contains(&dead));
}
