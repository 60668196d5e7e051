//! A plugin as a stranger would write it: outside the workspace of rework, with operations in
//! several modules, one of them async.

mod capture;
mod doubles;
mod files;
mod mirror;
mod patience;
mod plan;

rework_plugin::export!();
