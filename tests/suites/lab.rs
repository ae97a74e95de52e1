//! The suites on whole hosts, in one program, so that two of them run at once: a guest uses one processor, and much of its
//! time it waits for itself. `make lab`, or `cargo test -p decnet-tests --test lab lab_boot` for one of them.

mod lab_boot;
mod lab_decommission;
mod lab_doctor;
mod lab_install;
mod lab_lan;
mod lab_networks;
mod lab_power;
mod lab_rpm;
mod lab_units;
mod lab_update;
