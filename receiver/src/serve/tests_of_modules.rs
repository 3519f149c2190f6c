//! The module registry as terraform speaks to it.

use serde_json::json;

use super::testing::{Release, module_archive};
use super::tests::Gateway;

const SOURCE: &str = "registry.terraform.io/acme/net/aws";

#[tokio::test]
async fn modules_are_found_under_the_source_that_templates_have() {
    let gateway = Gateway::new();
    let empty = gateway.send("GET", "/client/terraformrc", &[("host", "gw.site")]).await;
    assert!(!empty.text().contains("modules.v1"));
    let archive = module_archive(&[("repo/modules/a/main.tf", b"# tf")]);
    let mut release = Release::new("main", 1);
    let digest = release.module(SOURCE, "1.0.0", "", &archive);
    release.module(SOURCE, "1.1.0+b.1", "repo/modules/a", &archive);
    release.module("tf.example:8443/acme/net/aws", "2.0.0", "", &archive);
    gateway.publish(vec![release]);

    let services = gateway.get("/.well-known/terraform.json").await.json();
    assert_eq!(services["modules.v1"], "/v1/modules/");
    let listed = json!({ "modules": [{ "versions": [{ "version": "1.0.0" }, { "version": "1.1.0+b.1" }] }] });
    for path in [
        "/v1/modules/acme/net/aws/versions",
        "/v1/modules/registry.terraform.io/acme/net/aws/versions",
        "/v1/modules/registry.terraform.io/Acme/Net/aws/versions",
    ] {
        assert_eq!(gateway.get(path).await.json(), listed, "{path}");
    }
    for (path, get) in [
        ("registry.terraform.io/Acme/net/aws/1.0.0", format!("/blobs/{digest}/net-aws-1.0.0.tar.gz")),
        ("acme/net/aws/1.0.0", format!("/blobs/{digest}/net-aws-1.0.0.tar.gz")),
        ("acme/net/aws/1.1.0+b.1", format!("/blobs/{digest}/net-aws-1.1.0_b.1.tar.gz//repo/modules/a")),
        ("tf.example:8443/acme/net/aws/2.0.0", format!("/blobs/{digest}/net-aws-2.0.0.tar.gz")),
    ] {
        let answer = gateway.get(&format!("/v1/modules/{path}/download")).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-terraform-get")), (204, get.as_str()), "{path}");
        let (blob, _) = get.split_once("//").unwrap_or((&get, ""));
        assert_eq!(gateway.get(blob).await.body, archive);
    }
    for path in [
        "acme/net/aws/1.2.0/download",
        "acme/net/aws/download",
        "acme/net/gcp/versions",
        "other.example/acme/net/aws/versions",
        "acme/../aws/versions",
        "acme/net/aws/versions/x",
    ] {
        assert_eq!(gateway.status(&format!("/v1/modules/{path}")).await, 404, "{path}");
    }

    for via in ["registry", "mirror"] {
        let rc = gateway.send("GET", &format!("/client/terraformrc?via={via}"), &[("host", "gw.site")]).await;
        for host in ["registry.terraform.io", "tf.example:8443"] {
            let block = format!(
                "host \"{host}\" {{\n  services = {{\n    \"modules.v1\" = \"https://gw.site/v1/modules/{host}/\"\n  }}\n}}"
            );
            assert!(rc.text().contains(&block), "{}", rc.text());
        }
    }
    let home = gateway.get("/").await;
    assert!(home.text().contains(SOURCE) && home.text().contains("1.1.0+b.1"), "{}", home.text());
}

#[tokio::test]
async fn an_origin_of_both_has_one_block() {
    let gateway = Gateway::new();
    let proof = super::testing::Proof {
        sums: b"sums",
        signature: b"sig",
        key_id: "ABCDEF0123456789",
        key: b"-armor-",
    };
    let mut release = Release::new("main", 1);
    release.module(SOURCE, "1.0.0", "", &module_archive(&[("main.tf", b"")]));
    release.provider("registry.terraform.io/coder/coder", "1.0.0", b"zip", Some(proof));
    gateway.publish(vec![release]);
    let rc = gateway.send("GET", "/client/terraformrc", &[("host", "gw.site")]).await;
    assert_eq!(rc.text().matches("host \"registry.terraform.io\"").count(), 1);
    assert!(rc.text().contains("\"providers.v1\"") && rc.text().contains("\"modules.v1\""), "{}", rc.text());
}
