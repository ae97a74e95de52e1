use serde_json::json;

use crate::decoy::{Decoy, Start, Talk};

#[test]
fn smtp_captures_credentials_in_both_mechanisms() {
    let decoy = Decoy::start("smtp");
    let mut visitor = decoy.connect();
    visitor.expect("220 srv-mail-42 ESMTP Postfix (Debian/GNU)\r\n");
    let extensions = visitor.ask("EHLO me", "SMTPUTF8\r\n");
    assert!(
        extensions.contains("250-SIZE 10240000\r\n") && extensions.contains("AUTH PLAIN LOGIN"),
        "{extensions}"
    );
    visitor.ask("AUTH LOGIN", "334 VXNlcm5hbWU6\r\n");
    visitor.ask("Ym9i", "334 UGFzc3dvcmQ6\r\n");
    visitor.ask("c2VjcmV0", "535 ");
    visitor.ask("AUTH PLAIN AGJvYgBzM2NyZXQ=", "535 ");
    visitor.ask("AUTH PLAIN", "334 ");
    visitor.ask("AGFsAHB3", "535 ");
    for (user, password) in [("bob", "secret"), ("bob", "s3cret"), ("al", "pw")] {
        decoy.login(user, password);
    }
}

#[test]
fn smtp_takes_mail_for_its_own_domain_and_the_relay_takes_any() {
    let decoy = Start::new("smtp").with("HOSTNAME", "mx1.corp.lan").run();
    let mut visitor = decoy.connect();
    visitor.expect("220 ");
    visitor.ask("EHLO me", "250 SMTPUTF8");
    visitor.ask("MAIL FROM:<a@b.example> SIZE=100", "250 ");
    visitor.ask(
        "RCPT TO:<x@elsewhere.example>",
        "554 5.7.1 <x@elsewhere.example>: Relay access denied",
    );
    visitor.ask("DATA", "503 ");
    visitor.ask("RCPT TO:<root@corp.lan>", "250 ");
    visitor.ask("DATA", "354 ");
    visitor.ask("Subject: hello\r\n\r\n..body\r\n.", "250 2.0.0 Ok: queued as ");
    visitor.ask("QUIT", "221 ");
    let message = decoy.event("message", |_| true);
    assert_eq!(message["email"]["subject"], "hello");
    assert_eq!(message["email"]["sender"]["address"], "a@b.example");
    assert_eq!(message["email"]["to"]["address"], json!(["root@corp.lan"]));
    assert_eq!(
        message["decnet"]["message"]["content"],
        "Subject: hello\r\n\r\n.body\r\n"
    );

    let relay = Start::new("smtp_relay")
        .persona(&json!({"mta": "exim", "banner": "mail\r\n250 x"}))
        .run();
    let mut visitor = relay.connect();
    assert_eq!(visitor.expect("\r\n"), "220 mail  250 x\r\n");
    visitor.ask("HELO me", "250 ");
    visitor.ask("MAIL FROM:<>", "250 ");
    visitor.ask("RCPT TO:<x@elsewhere.example>", "250 ");
}

#[test]
fn a_message_over_the_cap_is_refused_and_its_log_stays_short() {
    let decoy = Start::new("smtp_relay").run();
    let mut visitor = decoy.connect();
    visitor.expect("220 ");
    visitor.ask("HELO me", "250 ");
    visitor.ask("MAIL FROM:<a@b.example>", "250 ");
    visitor.ask("RCPT TO:<c@d.example>", "250 ");
    visitor.ask("DATA", "354 ");
    let line = format!("{}\r\n", "x".repeat(998));
    for _ in 0..11_000 {
        visitor.send(&line);
    }
    visitor.ask(".", "552 ");
    let message = decoy.event("message", |_| true);
    assert_eq!(message["decnet"]["message"]["bytes"], 11_000_000);
    assert_eq!(
        message["decnet"]["message"]["content"].as_str().unwrap().len(),
        4096
    );
    visitor.ask("NOOP", "250 ");
}

/// Every mail server answered in Postfix's words, and a scanner took Exchange for Postfix.
#[test]
fn a_mail_server_keeps_to_its_own_words() {
    let relayed = |decoy: &Decoy| {
        let mut visitor = decoy.connect();
        let greeting = visitor.expect("\r\n");
        visitor.ask("EHLO me", "\r\n250 ");
        visitor.expect("\r\n");
        let unknown = visitor.ask("BLAH", "\r\n");
        visitor.ask("MAIL FROM:<a@b.example>", "250 ");
        visitor.expect("\r\n");
        (
            greeting,
            unknown,
            visitor.ask("RCPT TO:<x@elsewhere.example>", "\r\n"),
        )
    };
    let windows = Start::new("smtp")
        .with("DECNET_OS_FAMILY", "windows_server")
        .run();
    let (greeting, unknown, refused) = relayed(&windows);
    assert!(
        greeting.starts_with("220 srv-mail-42 Microsoft ESMTP MAIL Service ready at ")
            && greeting.ends_with(" +0000\r\n"),
        "{greeting}"
    );
    assert!(
        unknown.starts_with("500 5.3.3 ") && refused.starts_with("550 5.7.54 "),
        "{unknown}{refused}"
    );
    for (mta, said, answered) in [
        ("exim", " ESMTP Exim 4.", "500 unrecognized command"),
        ("sendmail", " ESMTP Sendmail 8.", "500 5.5.1 "),
        ("postfix", " ESMTP Postfix", "502 5.5.2 "),
    ] {
        let decoy = Start::new("smtp").persona(&json!({"mta": mta})).run();
        let (greeting, unknown, _) = relayed(&decoy);
        assert!(greeting.contains(said) && !greeting.contains('{'), "{greeting}");
        assert!(unknown.starts_with(answered), "{mta}: {unknown}");
    }
    // Postfix hangs up on browsers.
    let decoy = Decoy::start("smtp");
    let mut browser = decoy.connect();
    browser.expect("220 ");
    browser.ask(
        "GET / HTTP/1.1",
        "221 2.7.0 Error: I can break rules, too. Goodbye.",
    );
}

/// IMAP's `ID` of a Windows machine was Dovecot's.
#[test]
fn exchange_never_says_dovecot() {
    for (slug, commands) in [
        (
            "imap",
            &[
                "a CAPABILITY",
                "b ID NIL",
                "c LOGIN u p",
                "d NOOP",
                "e FOO",
                "f SELECT INBOX",
                "g LOGOUT",
            ][..],
        ),
        (
            "pop3",
            &["CAPA", "AUTH", "USER u", "PASS p", "FOO", "STAT", "QUIT"][..],
        ),
    ] {
        let decoy = Start::new(slug).with("DECNET_OS_FAMILY", "windows_server").run();
        let mut visitor = decoy.connect();
        for command in commands {
            visitor.send(format!("{command}\r\n"));
        }
        let said = String::from_utf8(visitor.rest()).unwrap();
        assert!(
            said.contains("Microsoft Exchange") && !said.contains("Dovecot"),
            "{said}"
        );
        assert!(
            !said.contains("AUTHENTICATIONFAILED") && !said.contains("[AUTH]"),
            "{said}"
        );
    }
}

/// Guesses until the decoy opens; the tries are the same for pop3 and imap.
fn guess(decoy: &Decoy, mut attempt: impl FnMut(&mut Talk, u32) -> bool) -> Talk {
    let mut visitor = decoy.connect();
    for number in 0..12 {
        if attempt(&mut visitor, number) {
            return visitor;
        }
    }
    panic!("12 guesses are refused");
}

#[test]
fn pop3_captures_credentials_and_shows_the_seeds_mailbox() {
    let decoy = Decoy::start("pop3");
    let mut visitor = guess(&decoy, |visitor, number| {
        if number == 0 {
            visitor.expect("+OK Dovecot ready.\r\n");
            visitor.ask("CAPA", "\r\n.\r\n");
            visitor.ask("STAT", "-ERR");
        }
        visitor.ask("USER ann", "+OK");
        visitor.expect("\r\n");
        visitor
            .ask(&format!("PASS guess {number}"), "\r\n")
            .starts_with("+OK")
    });
    assert_eq!(decoy.login("ann", "guess 0")["event"]["outcome"], "failure");
    let count: usize = visitor
        .ask("STAT", "\r\n")
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!((3..=8).contains(&count));
    let list = visitor.ask("LIST", "\r\n.\r\n");
    assert_eq!(list.lines().count(), count + 2);
    let message = visitor.ask("RETR 1", "\r\n.\r\n");
    assert!(message.contains("\r\nTo: ann@srv-mail-42.local\r\n"), "{message}");
    visitor.ask(&format!("RETR {}", count + 1), "-ERR");
    visitor.ask("RETR 99999999999999999999", "-ERR");
    decoy.event("read", |_| true);
}

#[test]
fn imap_captures_credentials_and_shows_the_seeds_mailbox() {
    let decoy = Decoy::start("imap");
    let mut visitor = guess(&decoy, |visitor, number| {
        if number == 0 {
            visitor.expect("Dovecot ready.\r\n");
            visitor.ask("a CAPABILITY", "a OK");
            visitor.expect("\r\n");
            visitor.ask("b SELECT INBOX", "b BAD");
            visitor.expect("\r\n");
            // A literal for the password, with the client waiting for the go-ahead.
            visitor.ask("c LOGIN ann {4}", "+ OK\r\n");
            visitor.ask("p\"w\\", "c NO");
            visitor.expect("\r\n");
        }
        visitor
            .ask(&format!("d LOGIN \"ann\" \"guess {number}\""), "\r\n")
            .starts_with("d OK")
    });
    decoy.login("ann", "p\"w\\");
    decoy.login("ann", "guess 0");
    let selected = visitor.ask("e SELECT INBOX", "e OK");
    assert!(selected.contains(" EXISTS\r\n"), "{selected}");
    let fetched = visitor.ask("f FETCH 1 (FLAGS RFC822.SIZE BODY.PEEK[])", "f OK");
    assert!(
        fetched.contains("BODY[] {") && fetched.contains("To: ann@"),
        "{fetched}"
    );
    let fetched = visitor.ask("g UID FETCH 1:* (FLAGS ENVELOPE)", "g OK");
    assert!(
        fetched.contains("* 3 FETCH (UID 3 FLAGS (\\Seen) ENVELOPE ("),
        "{fetched}"
    );
    visitor.ask("h LOGOUT", "h OK");
    decoy.event("read", |_| true);
}

#[test]
fn two_seeds_have_two_mailboxes_and_one_seed_the_same() {
    let mailbox = |seed| {
        let decoy = Start::new("imap").seed(seed).run();
        let mut visitor = guess(&decoy, |visitor, number| {
            if number == 0 {
                visitor.expect("ready.\r\n");
            }
            visitor
                .ask(&format!("a LOGIN u g{number}"), "\r\n")
                .starts_with("a OK")
        });
        visitor.ask("b SELECT INBOX", "b OK") + &visitor.ask("c FETCH 1:* (ENVELOPE)", "c OK")
    };
    let first = mailbox(1);
    assert_eq!(first, mailbox(1));
    assert_ne!(first, mailbox(2));
}
