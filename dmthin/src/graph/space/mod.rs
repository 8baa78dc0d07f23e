//! Who takes a pool's room, by name: what each volume and each image has, what it has alone, and what
//! would come back if it went. [`Pool::space`] tells it in numbers, [`Pool::block_map`] where it lies.

mod answers;
mod by_name;
mod map;

pub use map::{BlockMap, MapCell, MapOwner};
