use super::*;

const TALK: Talk = Talk { alpn: b"test/1", bidi_streams_max: 1, uni_streams_max: 0 };

/// The pin is what anyone can compute of the public key: here that of RFC 8410, section 10.1.
#[test]
fn a_pin_is_the_digest_of_the_public_key() {
    use base64::Engine;
    let decode = |text| base64::prelude::BASE64_STANDARD.decode(text).unwrap();
    let public = decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    let secret = decode("MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC");
    let identity = Identity::of_seed(secret.last_chunk().unwrap()).unwrap();
    assert_eq!(identity.pin(), Pin(Sha256::of(&public)));
}

#[test]
fn what_is_no_pin_is_refused() {
    let hex = Sha256::of(b"x").to_string();
    assert!(format!("sha256:{hex}").parse::<Pin>().is_ok());
    for bad in [hex.clone(), format!("sha256:{}", hex.to_uppercase()), "sha256:12".to_owned(), String::new()]
    {
        assert!(bad.parse::<Pin>().is_err(), "{bad}");
    }
}

async fn connect(client: &quinn::ClientConfig, to: std::net::SocketAddr) -> Result<(), String> {
    let mut endpoint = quinn::Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(client.clone());
    // A second connection with the same settings could begin early, if there were anything to begin with.
    for _ in 0..2 {
        let Err(connecting) = endpoint.connect(to, "sender").unwrap().into_0rtt() else {
            return Err("0-RTT".to_owned());
        };
        let connection = connecting.await.map_err(|error| error.to_string())?;
        // Who is not let in hears so after it has begun to speak.
        let echoed: anyhow::Result<()> = async {
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(b"x").await?;
            Ok(receive.read_exact(&mut [0]).await?)
        }
        .await;
        echoed.map_err(|error| connection.close_reason().map_or(error.to_string(), |why| why.to_string()))?;
    }
    Ok(())
}

#[tokio::test]
async fn both_ends_know_each_other_or_do_not_speak_and_nothing_is_early() {
    let [server, known, stranger] = [1, 2, 3].map(|seed| Identity::of_seed(&[seed; 32]).unwrap());
    let config = server.server(BTreeSet::from([known.pin()]), &TALK).unwrap();
    let endpoint = quinn::Endpoint::server(config, (std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let to = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                let (mut send, mut receive) = connection.accept_bi().await?;
                let mut octet = [0];
                receive.read_exact(&mut octet).await.unwrap();
                send.write_all(&octet).await.unwrap();
                connection.closed().await;
                Ok::<_, quinn::ConnectionError>(())
            });
        }
    });
    connect(&known.client(server.pin(), &TALK).unwrap().0, to).await.unwrap();
    let error = connect(&stranger.client(server.pin(), &TALK).unwrap().0, to).await.unwrap_err();
    assert!(error.contains("handshake failed: error 49"), "{error}");
    let (config, found) = known.client(stranger.pin(), &TALK).unwrap();
    connect(&config, to).await.unwrap_err();
    assert_eq!(*found.lock().unwrap(), Some(server.pin()));
}
