//! What a stage checks of its tensors on entry: shape, dtype and device.

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Refuses a tensor that cannot stand in one equation with `as_this`: of another shape, on another device, or not of
/// floating-point numbers. Their precisions may differ: the result has the finer one.
pub(crate) fn alike(what: &str, got: &Tensor, as_this: &Tensor) -> Result<()> {
    same_shape(what, got, as_this)?;
    same_device(what, got.device(), as_this.device())?;
    floating(what, got.kind())?;
    floating(&format!("the tensor that belongs to {what}"), as_this.kind())
}

/// Refuses a tensor of another shape than `as_this`.
pub(crate) fn same_shape(what: &str, got: &Tensor, as_this: &Tensor) -> Result<()> {
    if got.size() == as_this.size() {
        return Ok(());
    }
    Err(Error::shape(what, format!("{:?}", as_this.size()), &got.size()))
}

/// Refuses a tensor that is on another device than the one that it meets: libtorch moves nothing by itself.
pub(crate) fn same_device(what: &str, got: Device, expected: Device) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let [expected, got] = [expected, got].map(crate::device::name);
    let expected = format!("a tensor on {expected}, where the other one is");
    Err(Error::argument(what, expected, format!("one on {got}"))
        .hint("move one of them with to_device"))
}

fn floating(what: &str, got: Kind) -> Result<()> {
    match got {
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Ok(()),
        _ => Err(Error::argument(what, "floating-point numbers", format!("{got:?}"))
            .hint("convert it with to_kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_devices_are_refused_by_name_and_told_how_to_meet() {
        let said = same_device("noise", Device::Cpu, Device::Cuda(1)).unwrap_err().to_string();
        assert_eq!(
            said,
            "noise: expected a tensor on cuda:1, where the other one is, got one on cpu; \
             move one of them with to_device"
        );
        assert!(same_device("noise", Device::Cuda(0), Device::Cuda(1)).is_err());
        assert!(same_device("noise", Device::Cuda(1), Device::Cuda(1)).is_ok());
    }

    #[test]
    fn numbers_of_any_precision_meet_and_integers_do_not() {
        let x = Tensor::ones([2], tch::kind::FLOAT_CPU);
        for kind in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
            assert!(alike("noise", &x.to_kind(kind), &x).is_ok(), "{kind:?}");
        }
        for kind in [Kind::Int64, Kind::Uint8, Kind::Bool] {
            assert!(alike("noise", &x.to_kind(kind), &x).is_err(), "{kind:?}");
            assert!(alike("noise", &x, &x.to_kind(kind)).is_err(), "{kind:?}");
        }
    }
}
