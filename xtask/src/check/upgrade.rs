//! The release before this tree, which the tests of upgrades start from.

use testbed::tools::Earlier;

use super::Step;
use crate::error::Result;

/// Builds it, unless it is in the cache. Where the history is not there it cannot be known: that is said, and the tests of
/// upgrades pass themselves over.
pub(super) fn check(_: &Step) -> Result<()> {
    match Earlier::get()? {
        Earlier::Release(release) => println!("upgrades are tested from {}", release.name),
        Earlier::Unknown(why) => println!("PASSED OVER: upgrades are not tested in this run; {why}"),
    }
    Ok(())
}
