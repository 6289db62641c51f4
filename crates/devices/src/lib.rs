//! Several devices of one profile (`docs/spec/devices.md`).
//!
//! Each device is an agent of its own, with its own connections and keys: no ratchet is ever shared. A new device is
//! linked to one of the profile's ([`Linking`]); the others, and the contacts, are told of it inside the connections that
//! they have, and connect to it ([`Devices`]). What is sent goes to each device of a contact over a connection of its own.
//!
//! Everything here is pure: no file, clock or socket. Agents carry [`Frame`]s, and the application does what is
//! [due](Devices::due).

mod frame;
mod id;
mod linking;
mod state;
mod words;

pub use frame::{
    BODY_OVERHEAD, Frame, FrameError, KEPT_MAX, LINK_MAX, NAME_MAX, Whom, is_device_frame,
};
pub use id::{ContactId, DeviceId, MessageName, Token};
pub use linking::{Code, Fault, Linking, Party, Side};
pub use state::{
    CONTACTS_MAX, COPIES_MAX, DEVICES_MAX, Deed, Devices, Due, HEARD_MAX, KNOWN_MAX, OwnDevice,
    STRANGERS_MAX, StateError,
};
pub use words::{Line, News};
