//! The shell: handles that applications hold, the thread that owns core and store, the tasks that
//! talk to relays.

mod agent;
mod engine;
mod relay;
mod timer;

pub use agent::{
    Agent, AgentConfig, Events, Fallback, Passwords, ROTATION_PERIOD, Reconnect, Succeed,
};
