//! Training that starts from the weights of a trained network.

use std::path::Path;

use tch::{Tensor, no_grad};

use crate::models::params::Params;
use crate::tensor_file::{TensorFile, weight_files};
use crate::{Error, Result};

/// Copies the weights of a component's folder into a network. `known_as` maps the name of a tensor to its name in
/// the folder; tensors that it maps to `None` stay fresh. Of a token embedding only `rows` are copied.
///
/// # Errors
/// Weights that cannot be read, or that lack a tensor or have it in another shape.
pub(super) fn load_initial_weights(
    params: &Params,
    folder: &Path,
    known_as: impl Fn(&str) -> Option<String>,
    rows: Option<&[i64]>,
) -> Result<()> {
    let files: Vec<TensorFile> =
        weight_files(folder)?.iter().map(TensorFile::open).collect::<Result<_>>()?;
    for (name, variable) in params.variables() {
        let Some(name) = known_as(&name) else { continue };
        let name = name.as_str();
        let wrong = |got: String| {
            let expected = format!("{name} {:?}, as the network to be trained", variable.size());
            let todo = "give the options that it was trained with";
            Error::argument(folder.display().to_string(), expected, got).hint(todo)
        };
        let file = files.iter().find(|file| file.shape(name).is_some());
        let mut tensor = file.ok_or_else(|| wrong("none".into()))?.tensor(name)?;
        if let (Some(rows), true) = (rows, name.contains("token_embedding")) {
            if rows.last().is_some_and(|&last| last >= tensor.size()[0]) {
                return Err(wrong(format!("{:?}", tensor.size())));
            }
            tensor = tensor.index_select(0, &Tensor::from_slice(rows));
        }
        if tensor.size() != variable.size() {
            return Err(wrong(format!("{:?}", tensor.size())));
        }
        no_grad(|| variable.detach().copy_(&tensor));
    }
    Ok(())
}
