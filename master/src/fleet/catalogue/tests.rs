use super::*;

#[test]
fn the_built_in_catalogue_loads() {
    Catalogue::load(&[]).unwrap();
}
