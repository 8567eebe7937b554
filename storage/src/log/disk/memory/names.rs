//! The names of files and folders: as a process sees them, on the platter, and between the two.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    path::{Path, PathBuf},
};

use super::pages::Inode;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir,
    File(Inode),
}

/// One change of names that comes about whole or not at all.
type Change = Vec<(PathBuf, Option<Node>)>;

#[derive(Debug)]
pub(super) struct Names {
    cached: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// What has still to be written back, oldest first.
    pending: Vec<Change>,
}

impl Default for Names {
    fn default() -> Names {
        let roots = BTreeMap::from(["/", "."].map(|root| (PathBuf::from(root), Node::Dir)));
        Names { cached: roots.clone(), durable: roots, pending: Vec::new() }
    }
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        self.cached.get(path)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Inode> {
        match self.get(path) {
            Some(Node::File(inode)) => Ok(inode.clone()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn check_dir(&self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The folder that a new name would be in must be there.
    pub(super) fn check_parent(&self, path: &Path) -> io::Result<()> {
        self.check_dir(parent(path))
    }

    /// Changes some names at once.
    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.cached, &change);
        self.pending.push(change);
    }

    /// Gives or takes a name in the cache and on the platter, with the folders above it.
    pub(super) fn change_by_hand(&mut self, path: &Path, node: Option<Node>) {
        let folders = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        let mut change: Change = folders.map(|dir| (dir.to_owned(), Some(Node::Dir))).collect();
        change.push((path.to_owned(), node));
        apply(&mut self.cached, &change);
        apply(&mut self.durable, &change);
    }

    pub(super) fn children(&self, dir: &Path) -> Vec<PathBuf> {
        let after = self.cached.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
        let below = after.map(|(path, _)| path).take_while(|path| dir == Path::new(".") || path.starts_with(dir));
        below.filter(|path| parent(path) == dir).cloned().collect()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, &Inode)> {
        self.cached.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path, inode)),
            Node::Dir => None,
        })
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let concerned = change.iter().any(|(path, _)| parent(path) == dir);
            if concerned {
                apply(durable, change);
            }
            !concerned
        });
    }

    /// Leaves what is durable, and of the rest what `survives` picks.
    pub(super) fn forget(&mut self, mut survives: impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            if survives() {
                apply(&mut self.durable, &change);
            }
        }
        // A name whose folder is gone is gone too; folders come before what is in them.
        let mut left: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable) {
            let is_root = path == Path::new("/") || path == Path::new(".");
            if is_root || matches!(left.get(parent(&path)), Some(Node::Dir)) {
                left.insert(path, node);
            }
        }
        self.cached.clone_from(&left);
        self.durable = left;
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    for (path, node) in change {
        match node {
            Some(node) => names.insert(path.clone(), node.clone()),
            None => names.remove(path),
        };
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
