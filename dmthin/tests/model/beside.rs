//! Commands beside others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dmthin::graph::{Host, ImportSource, Parents};

use crate::archive;
use crate::world::World;

/// How often an image comes and goes.
const TIMES: u32 = 20;

/// Lists read the images, and then the layers of each. One that was removed in between was an image that is not
/// there, of which nobody had asked: `image list` and `image prune` ended with 3, and `check` called the pool
/// damaged.
#[test]
fn lists_do_not_stumble_over_an_image_that_goes() {
    let dir = tempfile::tempdir().unwrap();
    let images = archive::images(dir.path());
    let made = World::make().unwrap();
    let world = World::with(&made, &images);
    let (model, root, name) = (world.model.clone(), world.root(), world.name().clone());
    let _entered = model.enter();
    world.open().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = || {
            let _entered = model.enter();
            let host = Host::new(root.clone());
            let pool = host.pool(&name).unwrap();
            while !over.load(Ordering::Relaxed) {
                pool.images().expect("a list");
                pool.image_tree(None).expect("a tree");
                // Each has a name.
                assert_eq!(pool.prune_images().expect("nothing to prune").images, []);
                let found = host.check(None).expect("a look").findings;
                let damage: Vec<_> = found.iter().filter(|f| f.kind.is_damage()).collect();
                assert!(damage.is_empty(), "{damage:?}");
            }
        };
        let looking = scope.spawn(others);
        let host = Host::new(root.clone());
        let pool = host.pool(&name).unwrap();
        for _ in 0..TIMES {
            for image in &images {
                let source = ImportSource::File(image.archive.clone());
                pool.import(&source, None, &mut |_| {}).unwrap();
            }
            for image in &images {
                pool.remove_image(&image.name, Parents::Keep).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
}
