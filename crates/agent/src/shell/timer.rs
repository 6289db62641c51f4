//! The task that wakes the engine.

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::engine::Input;

/// Sends [`Input::Tick`] at the moment that was last asked for, once. Ends with the engine.
pub(super) async fn run(
    mut wake_at: watch::Receiver<Option<Instant>>,
    inputs: mpsc::WeakSender<Input>,
) {
    loop {
        let at = *wake_at.borrow_and_update();
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wake_at.changed() => if changed.is_err() { return },
            () = due => {
                let Some(inputs) = inputs.upgrade() else { return };
                if inputs.send(Input::Tick).await.is_err() {
                    return;
                }
                drop(inputs);
                // The engine asks again once it has looked.
                if wake_at.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
