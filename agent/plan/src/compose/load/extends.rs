//! `extends`: a service laid on another one, of the same file or of another.
//!
//! Everything is inherited but `extends` itself. What another file's service says of paths starts from that file's
//! directory; `!reset` and `!override` work on what is inherited.

use super::loader::{Context, Loader};
use super::sink::TOO_LARGE;
use super::tree::{Map, Trail, Tree};
use super::{merge, paths};

/// How many services may lie on one another.
const MAX_CHAIN: usize = 64;

/// Where a chain of `extends` has come by: file and service.
type Chain = Vec<(String, String)>;

impl Loader<'_> {
    /// Resolves every `extends` of a canonical document of `file`.
    pub(super) fn extend(&mut self, document: &mut Tree, file: &str, context: &Context) {
        let Some(services) = document.get_mut("services").and_then(Tree::as_map_mut) else {
            return;
        };
        let names: Vec<String> = services.keys().cloned().collect();
        for name in names {
            self.extend_service(
                services,
                &name,
                file,
                &context.directory,
                context,
                &mut Vec::new(),
            );
        }
    }

    fn extend_service(
        &mut self,
        services: &mut Map,
        name: &str,
        file: &str,
        directory: &str,
        context: &Context,
        chain: &mut Chain,
    ) {
        let Some(extends) = services
            .get_mut(name)
            .and_then(Tree::as_map_mut)
            .and_then(|map| map.remove("extends"))
        else {
            return;
        };
        if extends.is_null() {
            return;
        }
        let root = Trail::Root;
        let trail = root.key("services");
        let trail = trail.key(name);
        let trail = trail.key("extends");
        let Some(other) = extends.get_text("service") else {
            return self.sink.fail(
                extends.at,
                &trail,
                "needs a service: the name of the one to extend",
            );
        };
        if let Some(key) = extends
            .as_map()
            .and_then(|map| map.keys().find(|key| !matches!(key.as_str(), "service" | "file")))
        {
            let problem = format!("has no attribute {key}: it takes service and file");
            return self.sink.fail(extends.at, &trail, problem);
        }
        let here = (file.to_owned(), name.to_owned());
        chain.push(here);
        let target_file = extends.get("file").map(|file| file.as_text().unwrap_or_default());
        let base = match target_file {
            None if !services.contains_key(other) => {
                let problem = format!("there is no service {other} in {}", self.shown(file));
                self.sink.fail(extends.at, &trail, problem);
                None
            }
            None if self.is_cycle(&extends, &trail, file, other, chain) => None,
            None => {
                self.extend_service(services, other, file, directory, context, chain);
                services.get(other).cloned()
            }
            Some(path) if path.is_empty() || paths::is_remote(path) => {
                let problem = "must name a file on this machine: copy a remote one here";
                self.sink.fail(extends.at, &trail.key("file"), problem);
                None
            }
            Some(path) => {
                let path = self.base(directory).resolve(path);
                if self.is_cycle(&extends, &trail, &path, other, chain) {
                    None
                } else {
                    self.base_of_file(&path, other, &extends, &trail, context, chain)
                }
            }
        };
        chain.pop();
        let Some(mut base) = base.filter(|base| !base.is_null()) else {
            return;
        };
        let size = base.size();
        if !self.sink.budget.take(size.nodes, size.bytes) {
            return self.sink.fail(extends.at, &trail, TOO_LARGE);
        }
        base.settle();
        let Some(service) = services.get_mut(name) else {
            return;
        };
        let at = service.at;
        let over = std::mem::replace(service, Tree::map(at));
        let mark = over.mark;
        // The mark of the service as a whole is for what earlier files say of it.
        let over = Tree {
            mark: super::tree::Mark::None,
            ..over
        };
        merge::service(&mut base, over, name, &mut self.sink);
        base.at = at;
        base.mark = mark;
        *service = base;
    }

    fn is_cycle(
        &mut self,
        extends: &Tree,
        trail: &Trail<'_>,
        file: &str,
        service: &str,
        chain: &Chain,
    ) -> bool {
        let problem = if chain.iter().any(|(f, s)| f == file && s == service) {
            let mut names: Vec<&str> = chain.iter().map(|(_, service)| service.as_str()).collect();
            names.push(service);
            format!("the services extend each other: {}", names.join(", "))
        } else if chain.len() >= MAX_CHAIN {
            format!("more than {MAX_CHAIN} services extend one another")
        } else {
            return false;
        };
        self.sink.fail(extends.at, trail, problem);
        true
    }

    /// A service of another file, with what it extends itself, its paths absolute.
    fn base_of_file(
        &mut self,
        path: &str,
        name: &str,
        extends: &Tree,
        trail: &Trail<'_>,
        context: &Context,
        chain: &mut Chain,
    ) -> Option<Tree> {
        let key = (context.id, path.to_owned());
        if !self.bases.contains_key(&key) {
            let documents = self.documents(path, Some((extends.at, &trail.key("file"))))?;
            let mut whole = Tree::map(extends.at);
            for mut document in documents {
                self.prepare(&mut document, context);
                merge::documents(&mut whole, document, &mut self.sink);
            }
            let directory = paths::parent(path);
            self.base(&directory).document(&mut whole);
            let services = whole.as_map_mut().and_then(|map| map.remove("services"));
            self.bases
                .insert(key.clone(), services.unwrap_or(Tree::map(extends.at)));
        }
        let mut services = self
            .bases
            .get(&key)
            .and_then(Tree::as_map)
            .cloned()
            .unwrap_or_default();
        if !services.contains_key(name) {
            let problem = format!("there is no service {name} in {path}");
            self.sink.fail(extends.at, trail, problem);
            return None;
        }
        let directory = paths::parent(path);
        self.extend_service(&mut services, name, path, &directory, context, chain);
        services.remove(name)
    }
}
