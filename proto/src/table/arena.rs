//! Where what has a name of its own is kept: allocations, relay sockets, channels.
//!
//! A name is a place and a generation; an old name never means what has the place now, not even after the
//! memory was given back in between. Nothing moves while it lives.

use std::marker::PhantomData;

/// What names an entry of an [`Arena`]: a type of its own for each kind.
pub(super) trait Name: Copy {
    fn new(index: u32, generation: u32) -> Self;
    fn index(self) -> u32;
    fn generation(self) -> u32;
}

/// Arenas and maps up to this size are kept whatever they hold.
pub(super) const SMALL: usize = 64;

#[derive(Debug)]
pub(super) struct Arena<N, T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    /// Generation of new places: above that of every name that was ever given, also when the places are gone.
    first_generation: u32,
    names: PhantomData<N>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<N: Name, T> Arena<N, T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), first_generation: 0, names: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> N {
        let index = self.free_place();
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        N::new(index, place.generation)
    }

    /// A name that nothing has, nor will have.
    pub(super) fn unused_name(&mut self) -> N {
        let index = self.free_place();
        let place = &mut self.places[index as usize];
        let name = N::new(index, place.generation);
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        name
    }

    fn free_place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: self.first_generation, value: None });
            (self.places.len() - 1) as u32
        })
    }

    #[inline]
    pub(super) fn get(&self, name: N) -> Option<&T> {
        let place = self.places.get(name.index() as usize)?;
        place.value.as_ref().filter(|_| place.generation == name.generation())
    }

    #[inline]
    pub(super) fn get_mut(&mut self, name: N) -> Option<&mut T> {
        let place = self.places.get_mut(name.index() as usize)?;
        place.value.as_mut().filter(|_| place.generation == name.generation())
    }

    /// Takes an entry away, and gives memory back with the last of many: a crowd that left must not cost for ever.
    pub(super) fn remove(&mut self, name: N) -> Option<T> {
        let place = self.places.get_mut(name.index() as usize)?;
        let value = place.value.take_if(|_| place.generation == name.generation())?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(name.index());
        if self.len() == 0 && self.places.len() > SMALL {
            let highest = self.places.iter().map(|place| place.generation).max();
            self.first_generation = highest.unwrap_or(self.first_generation).wrapping_add(1);
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
        Some(value)
    }

    /// Entries at places from `start` on, at most `places` of them, and where to go on: a walk meets each entry
    /// at most once.
    pub(super) fn walk(&self, start: u32, places: usize) -> (impl Iterator<Item = (N, &T)>, Option<u32>) {
        let start = (start as usize).min(self.places.len());
        let end = start.saturating_add(places).min(self.places.len());
        let found = self.places[start..end]
            .iter()
            .zip(start as u32..)
            .filter_map(|(place, index)| Some((N::new(index, place.generation), place.value.as_ref()?)));
        (found, Some(end as u32).filter(|_| end < self.places.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Id(u32, u32);

    impl Name for Id {
        fn new(index: u32, generation: u32) -> Self {
            Self(index, generation)
        }

        fn index(self) -> u32 {
            self.0
        }

        fn generation(self) -> u32 {
            self.1
        }
    }

    #[test]
    fn an_old_name_means_nothing_new() {
        let mut arena = Arena::<Id, &str>::new();
        let old = arena.insert("old");
        assert_eq!(arena.remove(old), Some("old"));
        let new = arena.insert("new");
        assert_eq!(old.0, new.0, "the place is used again");
        assert!(arena.get(old).is_none() && arena.get_mut(old).is_none() && arena.remove(old).is_none());
        assert_eq!((arena.get(new), arena.len()), (Some(&"new"), 1));
    }

    #[test]
    fn a_crowd_that_left_costs_nothing_and_its_names_stay_old() {
        let mut arena = Arena::<Id, u32>::new();
        let again = arena.insert(0);
        arena.remove(again);
        let crowd: Vec<_> = (0..1000).map(|number| arena.insert(number)).collect();
        crowd.iter().for_each(|name| assert!(arena.remove(*name).is_some()));
        assert_eq!((arena.places.capacity(), arena.free.capacity()), (0, 0));
        let later: Vec<_> = (0..1000).map(|number| arena.insert(number)).collect();
        assert!(crowd.iter().chain([&again]).all(|name| arena.get(*name).is_none()));
        assert!(later.iter().all(|name| arena.get(*name).is_some()));
    }

    #[test]
    fn a_walk_in_parts_meets_each_entry_once() {
        let mut arena = Arena::<Id, u32>::new();
        let names: Vec<_> = (0..10).map(|number| arena.insert(number)).collect();
        [0, 4, 9].iter().for_each(|index| assert!(arena.remove(names[*index]).is_some()));
        let (mut met, mut next) = (Vec::new(), Some(0));
        while let Some(start) = next {
            let (part, then) = arena.walk(start, 3);
            met.extend(part.map(|(_, value)| *value));
            next = then;
        }
        assert_eq!(met, [1, 2, 3, 5, 6, 7, 8]);
        assert!(arena.walk(99, 3).0.next().is_none());
    }
}
