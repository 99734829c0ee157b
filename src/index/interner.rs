//! An interner: stores each value once, names it by a small number, and drops it with its last use.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;

use hashbrown::HashTable;

/// Names a value of one [`Interner`], and means nothing to another. The number is reused once the value is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Symbol(NonZeroU32);

impl Symbol {
    fn at(position: usize) -> Self {
        let number = u32::try_from(position + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("four billion different values do not fit into memory"))
    }

    fn position(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Counts the uses of each value explicitly: new pod names and template hashes appear forever, so a value must be
/// dropped with its last use. The count of an `Arc` cannot show that, since readers outside the index hold clones.
#[derive(Debug)]
pub(super) struct Interner<V> {
    /// Finds the symbol of a value. Holds symbols only: a map would hold every value a second time.
    table: HashTable<Symbol>,
    slots: Vec<Cell<V>>,
    vacant: Option<Symbol>,
    hasher: RandomState,
}

#[derive(Debug)]
enum Cell<V> {
    Taken { value: V, uses: u32 },
    Vacant { next: Option<Symbol> },
}

impl<V> Default for Interner<V> {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            vacant: None,
            hasher: RandomState::new(),
        }
    }
}

/// The result of [`Interner::acquire`].
pub(super) struct Acquired {
    /// The value's symbol, with one more use.
    pub(super) symbol: Symbol,
    /// Whether the value is new.
    pub(super) fresh: bool,
}

impl<V: Hash + Eq> Interner<V> {
    /// Adds one use to the value equal to `key`. Creates the value by `make` if there is none.
    pub(super) fn acquire<Q>(&mut self, key: &Q, make: impl FnOnce() -> V) -> Acquired
    where
        V: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let slots = &mut self.slots;
        if let Some(&symbol) = self.table.find(hash, |&symbol| value(slots, symbol).borrow() == key) {
            if let Cell::Taken { uses, .. } = &mut slots[symbol.position()] {
                *uses += 1;
            }
            return Acquired { symbol, fresh: false };
        }
        let taken = Cell::Taken { value: make(), uses: 1 };
        let symbol = if let Some(symbol) = self.vacant {
            if let Cell::Vacant { next } = std::mem::replace(&mut slots[symbol.position()], taken) {
                self.vacant = next;
            }
            symbol
        } else {
            slots.push(taken);
            Symbol::at(slots.len() - 1)
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.table
            .insert_unique(hash, symbol, |&symbol| hasher.hash_one(value(slots, symbol)));
        Acquired { symbol, fresh: true }
    }

    /// Releases one use. Returns the value if that was its last use; the caller then releases what the value used.
    pub(super) fn release(&mut self, symbol: Symbol) -> Option<V> {
        let Cell::Taken { value, uses } = &mut self.slots[symbol.position()] else {
            unreachable!("a symbol is released once per use")
        };
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        let hash = self.hasher.hash_one(&*value);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == symbol) {
            entry.remove();
        }
        let vacant = Cell::Vacant {
            next: self.vacant.replace(symbol),
        };
        match std::mem::replace(&mut self.slots[symbol.position()], vacant) {
            Cell::Taken { value, .. } => Some(value),
            Cell::Vacant { .. } => None,
        }
    }

    /// Returns the value of a symbol in use.
    pub(super) fn get(&self, symbol: Symbol) -> &V {
        value(&self.slots, symbol)
    }

    /// Returns the number of values in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the number of allocated slots, in use or vacant.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.slots.len()
    }
}

fn value<V>(slots: &[Cell<V>], symbol: Symbol) -> &V {
    match &slots[symbol.position()] {
        Cell::Taken { value, .. } => value,
        Cell::Vacant { .. } => unreachable!("a symbol is looked up only while it is in use"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn acquire(interner: &mut Interner<Arc<str>>, text: &str) -> Acquired {
        interner.acquire(text, || text.into())
    }

    #[test]
    fn equal_values_share_a_symbol() {
        let mut interner = Interner::default();
        let first = acquire(&mut interner, "orders");
        let second = acquire(&mut interner, "orders");
        let other = acquire(&mut interner, "billing");
        assert!(first.fresh && !second.fresh && other.fresh);
        assert_eq!(first.symbol, second.symbol);
        assert_ne!(first.symbol, other.symbol);
        assert_eq!(&**interner.get(other.symbol), "billing");
    }

    #[test]
    fn a_value_goes_with_its_last_use() {
        let mut interner = Interner::default();
        let symbol = acquire(&mut interner, "orders").symbol;
        acquire(&mut interner, "orders");
        assert_eq!(interner.release(symbol), None);
        assert_eq!(interner.release(symbol).as_deref(), Some("orders"));
        assert_eq!(interner.len(), 0);
        assert!(acquire(&mut interner, "orders").fresh);
    }

    #[test]
    fn churn_needs_no_more_room_than_the_most_values_at_once() {
        let mut interner = Interner::default();
        let mut live = std::collections::VecDeque::new();
        for generation in 0..100_000 {
            live.push_back(acquire(&mut interner, &format!("pod-{generation}")).symbol);
            if live.len() > 10 {
                interner.release(live.pop_front().unwrap());
            }
        }
        assert_eq!(interner.len(), 10);
        assert_eq!(interner.room(), 11);
    }
}
