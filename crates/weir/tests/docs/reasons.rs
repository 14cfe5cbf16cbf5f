//! A page with every reason for which records are set aside, from the table that names them.

use std::path::PathBuf;

use weir_schemas::reasons::REASONS;

use super::Pages;

/// Adds reasons.md.
pub fn pages(pages: &mut Pages) {
    let mut text = String::from(
        "# Reasons\n\nWhy a record is in `weir.quarantine`: its column `reason` has one of these codes, `message` says where and what, \
         `raw` has the bytes.\nWhat is a whole record can be sent through again with `weir replay SOURCE` after a mend.\n",
    );
    for reason in REASONS {
        let replay = if reason.record { "" } else { " Not a record; it cannot be replayed." };
        text.push_str(&format!("\n## `{}`\n\n{}{replay}\n", reason.code, reason.doc));
    }
    pages.insert(PathBuf::from("reasons.md"), text);
}
