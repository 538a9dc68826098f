//! Checkpoints from the Hugging Face hub, in the cache that Python's huggingface_hub uses.
//!
//! [`locate`], and so [`Checkpoint::open`](super::Checkpoint::open), reads a path that does not exist and has the form
//! of a [`HubId`], such as `stable-diffusion-v1-5/stable-diffusion-v1-5`, as a repository of the hub. It fetches only
//! the files that are opened: the configurations, the tokenizers and one set of weights for each network, chosen as
//! [`weight_files`](crate::tensor_file::weight_files) chooses it. An id can also name a single file.
//!
//! | Variable | Sets |
//! |---|---|
//! | `HF_HOME` | the folder of the cache and the token; default: `~/.cache/huggingface` |
//! | `HF_HUB_CACHE` | the folder of the cache; default: `$HF_HOME/hub` |
//! | `HF_TOKEN`, `HF_TOKEN_PATH` | the token, or the file that holds it; default: the file `$HF_HOME/token` |
//! | `HF_ENDPOINT` | the hub's address; default: `https://huggingface.co` |
//! | `HF_HUB_OFFLINE` | `1`: use the cache only, never the network |
//! | `HF_HUB_DISABLE_PROGRESS_BARS` | `1`: print nothing on stderr |
//!
//! Fetching needs the feature `hub`. Without it an id is recognised, and refused with an error that says so.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod header;
mod id;
mod locate;
#[cfg(feature = "hub")]
mod needed_files;
#[cfg(feature = "hub")]
mod partial_file;
#[cfg(feature = "hub")]
mod settings;

#[cfg(feature = "hub")]
pub use fetch::{fetch, fetch_headers};
pub use id::HubId;
pub use locate::{locate, locate_headers};
#[cfg(feature = "hub")]
pub use settings::Hub;
