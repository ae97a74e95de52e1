//! Rows.

use hyper::Method;
use serde_json::json;

use crate::serve::operator::testing::Master;

#[tokio::test]
async fn rows_take_1_to_200_ids() {
    let master = Master::new();
    assert_eq!(
        master.ask(Method::GET, "/deckies/lifecycle", None).await.status,
        400
    );
    assert_eq!(
        master
            .ask(Method::GET, "/deckies/lifecycle?id=x", None)
            .await
            .status,
        400
    );
    let ids = |count: usize| format!("/deckies/lifecycle?{}", vec!["ids=x"; count].join("&"));
    let answer = master.ask(Method::GET, &ids(200), None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()),
        (200, json!({ "rows": [] }))
    );
    assert_eq!(master.ask(Method::GET, &ids(201), None).await.status, 422);
}

#[tokio::test]
async fn the_list_of_rows_checks_its_parameters() {
    let master = Master::with_fleet();
    let host = master.control.hosts().unwrap()[0].host.id;
    for (query, status) in [
        ("open=true", 200),
        ("open=maybe", 422),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=x", 422),
        ("host=x", 422),
    ] {
        assert_eq!(
            master
                .ask(Method::GET, &format!("/lifecycle?{query}"), None)
                .await
                .status,
            status,
            "{query}"
        );
    }
    let count = async |query: String| {
        let rows = master
            .ask(Method::GET, &format!("/lifecycle?{query}"), None)
            .await
            .json();
        rows["rows"].as_array().unwrap().len()
    };
    assert_eq!(count(format!("open=true&host={host}")).await, 2);
    assert_eq!(count("limit=1".to_owned()).await, 1);
    assert_eq!(
        count("host=0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".to_owned()).await,
        0
    );
}
