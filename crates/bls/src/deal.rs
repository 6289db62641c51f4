//! One dealer's sharing: the secret polynomial, and what the others see of it.

use crate::{
    blame::Fault,
    encoding::{Reader, Writer},
    group::{G1, Point, evaluate, generate},
    party::{PartyIndex, ShareIndex},
    possession::Possession,
    scalar::{SCALAR_BYTES, Scalar, SecretScalar},
    setup::{Constant, Setup},
};

/// First byte of a deal or share message from a party that has nothing to deal.
const NOTHING: u8 = 0;
/// First byte of a deal or share message that carries something.
const SOMETHING: u8 = 1;

/// A dealer's secret polynomial, from the constant term on. Its coefficients are derived from the
/// run's seed, so a party that runs again after a crash deals the same shares.
pub(crate) struct Polynomial(Vec<SecretScalar>);

impl Polynomial {
    /// The polynomial of `dealer`; `constant` is the old share where the task fixes it.
    pub(crate) fn derive(
        setup: &Setup,
        dealer: PartyIndex,
        seed: &[u8; 32],
        constant: Option<SecretScalar>,
    ) -> Self {
        let coefficient = |k: u8| {
            let place = [dealer.value(), k];
            SecretScalar::hash(&[b"junto-bls/1 coefficient", setup.digest(), seed, &place])
        };
        let (threshold, _) = setup.result();
        let mut coefficients = Vec::with_capacity(usize::from(threshold.required()));
        coefficients.push(constant.unwrap_or_else(|| coefficient(0)));
        coefficients.extend((1..threshold.required()).map(coefficient));
        Self(coefficients)
    }

    /// The share of holder `index`.
    pub(crate) fn share(&self, index: ShareIndex) -> SecretScalar {
        let x = Scalar::from_u64(u64::from(index.value()));
        let mut value = SecretScalar::zero();
        for coefficient in self.0.iter().rev() {
            value.mul_add_assign(x, coefficient);
        }
        value
    }

    /// The deal of `dealer` and the message that announces it.
    pub(crate) fn deal(
        &self,
        setup: &Setup,
        dealer: PartyIndex,
        seed: &[u8; 32],
    ) -> (Deal, Vec<u8>) {
        let skipped = self.0.len() - usize::from(setup.commitment_count());
        let commitments: Vec<G1> = self.0.iter().map(generate).collect();
        let sent = &commitments[skipped..];
        let mut writer = Writer::new()
            .u8(SOMETHING)
            .u8(setup.commitment_count())
            .points(sent);
        if proves(setup) {
            writer = Possession::prove(setup, dealer, seed, &self.0[0], sent).write(writer);
        }
        (Deal { commitments }, writer.finish())
    }
}

/// Whether dealers prove that they know their constant term.
fn proves(setup: &Setup) -> bool {
    matches!(setup.constant(FIRST), Constant::Free)
}

/// Whichever index: whether a constant is free depends on the task alone.
const FIRST: ShareIndex = match ShareIndex::new(1) {
    Some(index) => index,
    None => unreachable!(),
};

/// The deal and share message of a party without a part in it.
pub(crate) fn nothing() -> Vec<u8> {
    vec![NOTHING]
}

/// A checked deal: commitments to every coefficient, the constant term included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deal {
    /// t points; the first is infinity in a refresh.
    commitments: Vec<G1>,
}

impl Deal {
    /// Reads and checks the deal message of `sender`; `None` if it is no dealer and says so.
    pub(crate) fn check(
        setup: &Setup,
        sender: PartyIndex,
        payload: &[u8],
    ) -> Result<Option<Self>, Fault> {
        let mut reader = Reader::new(payload);
        let kind = reader.u8().map_err(|_| Fault::Malformed)?;
        let Some(index) = setup.dealers().get(&sender).copied() else {
            let silent = kind == NOTHING && reader.finish().is_ok();
            return if silent {
                Ok(None)
            } else {
                Err(Fault::Malformed)
            };
        };
        if kind != SOMETHING {
            return Err(Fault::Malformed);
        }
        Self::read(setup, sender, index, &mut reader).map(Some)
    }

    fn read(
        setup: &Setup,
        sender: PartyIndex,
        index: ShareIndex,
        reader: &mut Reader<'_>,
    ) -> Result<Self, Fault> {
        // Exactly t: one more would raise the threshold, one fewer lower it.
        if reader.u8() != Ok(setup.commitment_count()) {
            return Err(Fault::CommitmentCount);
        }
        let sent = reader
            .points(setup.commitment_count())
            .map_err(|_| Fault::InvalidCommitment)?;
        let commitments = match setup.constant(index) {
            Constant::Free => {
                let proof = Possession::read(reader).map_err(|_| Fault::Possession)?;
                if !proof.verify(setup, sender, &sent) {
                    return Err(Fault::Possession);
                }
                sent
            }
            Constant::Zero => [vec![G1::default()], sent].concat(),
            Constant::Share(share) if sent.first() == Some(&share) => sent,
            Constant::Share(_) => return Err(Fault::WrongConstant),
        };
        if !reader.rest().is_empty() {
            return Err(Fault::Malformed);
        }
        Ok(Self { commitments })
    }

    pub(crate) fn commitments(&self) -> &[G1] {
        &self.commitments
    }

    /// Whether `share` is the value of this polynomial at `index`.
    pub(crate) fn matches(&self, index: ShareIndex, share: &SecretScalar) -> bool {
        G1::lower(&evaluate(&self.commitments, index.value())) == generate(share)
    }
}

/// The share message.
pub(crate) fn write_share(share: &SecretScalar) -> Vec<u8> {
    Writer::new()
        .u8(SOMETHING)
        .fixed(share.to_bytes().as_ref())
        .finish()
}

/// Reads a share message that carries a share.
pub(crate) fn read_share(payload: &[u8]) -> Result<SecretScalar, Fault> {
    let bytes: &[u8; SCALAR_BYTES] = match payload.split_first() {
        Some((&SOMETHING, share)) => share.try_into().map_err(|_| Fault::Malformed)?,
        _ => return Err(Fault::Malformed),
    };
    SecretScalar::from_bytes(bytes).ok_or(Fault::Malformed)
}
