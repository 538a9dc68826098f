//! The combinations that training never shows, so that composition can be tested.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::grammar::{Colour, Object, Thing, Truth};
use crate::{Error, Result};

/// Which combinations of colours and objects a scene may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Never a held-out combination.
    Train,
    /// Always at least one held-out combination.
    HeldOut,
    /// Any combination.
    Any,
}

/// The combinations that training never shows: `data/held_out.json`.
#[derive(Clone, Deserialize, Serialize)]
pub struct HeldOut {
    /// Objects in a colour.
    pub colours: Vec<(Colour, Object)>,
    /// Pairs of objects in one picture, in either order.
    pub objects: Vec<(Object, Object)>,
}

impl fmt::Debug for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (colours, pairs) = (self.colours.len(), self.objects.len());
        write!(f, "HeldOut {{ {colours} objects in a colour, {pairs} pairs }}")
    }
}

impl HeldOut {
    /// The list, which never changes.
    pub fn fixed() -> Result<Self> {
        serde_json::from_str(include_str!("../../data/held_out.json"))
            .map_err(|e| Error::config("data/held_out.json", e))
    }

    pub(super) fn has_colour(&self, thing: Thing) -> bool {
        self.colours.iter().any(|&(c, o)| thing.colour == Some(c) && thing.object == o)
    }

    pub(super) fn has_objects(&self, a: Object, b: Object) -> bool {
        self.objects.iter().any(|&pair| pair == (a, b) || pair == (b, a))
    }

    /// Whether a scene shows a held-out combination.
    pub fn contains(&self, truth: &Truth) -> bool {
        truth.objects.iter().any(|&thing| self.has_colour(thing))
            || matches!(truth.objects[..], [a, b] if self.has_objects(a.object, b.object))
    }
}
