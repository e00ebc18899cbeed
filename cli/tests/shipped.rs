//! The data that the repository ships, through the commands that README shows.

use crate::place::Place;

#[test]
fn the_flights_of_january_load_and_answer() {
    let place = Place::new("shipped");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/flights.csv.gz");
    let key = "time_hour,carrier,flight,origin";
    let err = place.run(&format!("import flights.db flights {file} --key {key}")).err(0);
    assert!(err.contains("27,004 rows") && err.contains("table flights holds 27,004"), "{err}");
    let flight = place.run("get flights.db flights 2013-01-01T10:00:00Z,UA,1545,EWR").out(0);
    assert!(
        flight.starts_with("{\"year\":2013,\"month\":1,\"day\":1,\"dep_time\":517,"),
        "{flight}"
    );
    let morning = place.run("scan flights.db flights --prefix 2013-01-01T10:").out(0);
    assert_eq!(morning.lines().count(), 6);
    assert!(place.run("verify flights.db").out(0).starts_with("sound: "));
    assert_eq!(place.run("export flights.db flights").out(0).lines().count(), 27_004);
}
