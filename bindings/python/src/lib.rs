//! The native half of the Python package `junto`; the half that programs see is in `python/junto`.

mod awaited;
mod core;
mod life;
mod mail;
mod outbox;

/// What `python/junto` stands on.
#[pyo3::pymodule(name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::core::Core;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::awaited::register(module)
    }
}
