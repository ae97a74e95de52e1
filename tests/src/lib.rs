//! The harness of the suites and the demo: real programs, a real Docker Engine, real LANs, ordinary clients.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`agreement`] | where a master, its agents' ledgers and the engine say different things |
//! | [`chaos`] | whatever can happen to a master, two agents, their engine and what connects them, in an order drawn from a seed |
//! | [`lan`] | a parent interface for macvlan whose other end is a network namespace with the gateway's address |
//! | [`ear`] | a listener on a LAN that hears who calls it |
//! | [`engine`] | what the Docker Engine says of containers, networks and images |
//! | [`engine_proxy`] | a socket between an agent and the engine that can hang, cut and pass on |
//! | [`own_engine`] | an engine of the suite's own, which may be killed |
//! | [`collector`] | an OpenTelemetry collector, which may refuse and hang |
//! | [`link`] | what connects an agent to its master, to be cut, stopped and slowed down |
//! | [`processes`] | master and agents as processes: start, wait until ready, stop, kill, restart |
//! | [`fleet`] | the CLI with `--json`, and waiting for rows and hosts |
//! | [`clients`] | one visit by its ordinary client for each service |
//! | [`lab`] | whole Debian hosts with their own kernel and systemd, for reboots, power cuts, units and packages |
//! | [`packages`] | packages of the programs that were built here |
//! | [`debian`] | a Debian's files to install packages in, thrown away afterwards |
//! | [`scene`] | a master, its worker and a LAN, made together and removed together |
//! | [`oracle`] | the same Compose files through Docker Compose and through the agent's engine |
//! | [`siege`] | agents that do what agents do, and clients that misbehave |
//! | [`seed`] | what a suite draws at random, from a seed that it prints |
//! | [`command`], [`wait`] | running a program with a limit; waiting for conditions |
//!
//! Everything made carries names of this process, and everything is removed when its owner is dropped.

pub mod agreement;
pub mod asked;
pub mod chaos;
pub mod clients;
pub mod collector;
pub mod command;
pub mod debian;
pub mod dialogue;
pub mod ear;
pub mod engine;
pub mod engine_proxy;
pub mod fleet;
pub mod lab;
pub mod lan;
pub mod link;
pub mod oracle;
pub mod own_engine;
pub mod packages;
pub mod processes;
pub mod scene;
pub mod seed;
pub mod siege;
pub mod wait;
