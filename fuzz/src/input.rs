//! Taking a fuzzer's bytes apart. Unlike the decoders under test this never fails: what is missing
//! is empty or zero, so that every mutation means something.

/// Bytes not used yet.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.u8())
    }

    /// Up to `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Two bytes of length, then that many bytes, or what there is.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let count = usize::from(self.u16());
        self.bytes(count)
    }
}

/// What [`Input::piece`] reads: for seeds.
pub(crate) fn piece(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("pieces are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}
