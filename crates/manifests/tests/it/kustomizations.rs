//! Each kustomization lists what is in its directory, and kubectl makes of it what the files say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use keywheel_manifests::{Object, directory, files, parse, read};

fn kustomizations() -> Vec<Object> {
    let files = files(Path::new("")).unwrap().into_iter();
    let found: Vec<_> = files
        .filter(|file| file.ends_with("kustomization.yaml"))
        .map(|file| read(file).unwrap().remove(0))
        .collect();
    assert!(found.len() >= 5, "only {} were found", found.len());
    found
}

/// The directory below `envoy/`, and what the kustomization there lists: files, and directories with a kustomization.
fn listed(kustomization: &Object) -> (PathBuf, Vec<PathBuf>) {
    let dir = kustomization.file.parent().unwrap().to_owned();
    let resources = kustomization.at("/resources").as_array().unwrap().iter();
    (dir, resources.map(|name| PathBuf::from(name.as_str().unwrap())).collect())
}

/// Every object that a kustomization stands for.
fn objects(dir: &Path) -> Vec<Object> {
    let kustomization = read(dir.join("kustomization.yaml")).unwrap().remove(0);
    let (dir, resources) = listed(&kustomization);
    let mut all = Vec::new();
    for resource in resources {
        let path = dir.join(&resource);
        if resource.extension().is_some() {
            all.extend(read(path).unwrap())
        } else {
            all.extend(objects(&path))
        }
    }
    all
}

/// Kind, namespace and name.
fn identities(objects: &[Object]) -> BTreeSet<(String, String, String)> {
    let identity = |object: &Object| (object.kind().into(), object.namespace().into(), object.name().into());
    let identities: BTreeSet<_> = objects.iter().map(identity).collect();
    assert_eq!(identities.len(), objects.len(), "an object is there twice");
    identities
}

#[test]
fn each_lists_every_file_beside_it() {
    for kustomization in kustomizations() {
        let (dir, listed) = listed(&kustomization);
        let beside =
            std::fs::read_dir(directory().join(&dir)).unwrap().map(|entry| entry.unwrap().file_name());
        let beside = beside.map(PathBuf::from).filter(|name| {
            name.extension().is_some_and(|extension| extension == "yaml")
                && !name.ends_with("kustomization.yaml")
        });
        let files: BTreeSet<_> = listed.iter().filter(|name| name.extension().is_some()).cloned().collect();
        assert_eq!(files, beside.collect(), "envoy/{}", dir.display());
        // Each is found, and nothing is in two of them.
        identities(&objects(&dir));
    }
}

#[test]
fn each_entry_names_the_image_that_runs() {
    for kustomization in kustomizations() {
        let (dir, _) = listed(&kustomization);
        let is_part = dir.file_name().unwrap().to_string_lossy().starts_with("base");
        let runs = |object: &Object| object.text("/spec/template/spec/containers/0/image") == "keywheel";
        let names_it = !is_part && objects(&dir).iter().any(runs);
        assert_eq!(
            kustomization.at("/images/0/name").as_str(),
            names_it.then_some("keywheel"),
            "{}",
            dir.display()
        );
    }
}

#[test]
fn kubectl_makes_of_each_what_its_files_say() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        eprintln!("not checked: there is no kubectl");
        return;
    }
    for kustomization in kustomizations() {
        let (dir, _) = listed(&kustomization);
        let made = Command::new("kubectl").arg("kustomize").arg(directory().join(&dir)).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "envoy/{}: {said}", dir.display());
        let made = parse(&dir, &String::from_utf8(made.stdout).unwrap()).unwrap();
        assert_eq!(identities(&made), identities(&objects(&dir)), "envoy/{}", dir.display());
        for object in made {
            let image = object.text("/spec/template/spec/containers/0/image");
            assert!(image != "keywheel" || dir.ends_with("base-postgres"), "{object} runs {image}");
        }
    }
}
