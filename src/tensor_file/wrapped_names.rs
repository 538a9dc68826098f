//! Names of tensors as wrappers of networks leave them.

use std::borrow::Cow;

/// The parts of a name that torch's wrappers of a module add: compilation, parallel training, sharding, recomputation.
const WRAPPERS: [&str; 5] = [
    "_orig_mod",
    "module",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// The parts of a name that wrappers added.
pub(crate) fn wrappers(name: &str) -> impl Iterator<Item = &str> {
    name.split('.').filter(|part| WRAPPERS.contains(part))
}

/// The name without the parts that wrappers add, at its beginning or within it.
pub(crate) fn unwrapped(name: &str) -> Cow<'_, str> {
    match wrappers(name).next() {
        None => name.into(),
        Some(_) => {
            let parts: Vec<&str> =
                name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
            parts.join(".").into()
        }
    }
}

/// The whole parts that all names begin with, with the dot after them; empty where there are none.
pub(crate) fn common_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> &'a str {
    let Some(first) = names.next() else { return "" };
    let shared = names.fold(first, |shared, name| {
        let same = shared.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        shared.get(..same).unwrap_or_default()
    });
    shared.rfind('.').map_or("", |dot| &shared[..=dot])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_whole_parts_of_names() {
        for (name, plain) in [
            ("_orig_mod.conv_in.weight", "conv_in.weight"),
            ("module._orig_mod.conv_in.weight", "conv_in.weight"),
            ("model.diffusion_model._orig_mod.out.2.bias", "model.diffusion_model.out.2.bias"),
            ("modules.conv_in.weight", "modules.conv_in.weight"),
        ] {
            assert_eq!(unwrapped(name), plain);
        }
        assert_eq!(common_prefix(["net.a.b", "net.a.c"].into_iter()), "net.a.");
        assert_eq!(common_prefix(["net.ab", "net.ac"].into_iter()), "net.");
        assert_eq!(common_prefix(["ab", "ac"].into_iter()), "");
        assert_eq!(common_prefix(["größe.x", "grüße.x"].into_iter()), "");
    }
}
