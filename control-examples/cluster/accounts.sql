-- Accounts in PostgreSQL for qmail-accounts(8): tables of our own, and a trigger by which a change is known at once.
-- Run it as the owner of the database; control-examples/cluster/accounts.postgresql has the queries.

CREATE TABLE mail_domains (
    domain text PRIMARY KEY,
    active boolean NOT NULL DEFAULT true
);

CREATE TABLE mail_users (
    address text PRIMARY KEY,
    password text NOT NULL DEFAULT '',  -- a hash; who has none cannot log in
    home text,                          -- below homes; DOMAIN/NAME if there is none
    quota text,                         -- bytes, or as in 10000000S,5000C
    active boolean NOT NULL DEFAULT true
);

-- Several targets are several rows. An address of mail_users that has rows here keeps its copy only if it is its own
-- target too. '@example.org' is every address of the domain that nobody has.
CREATE TABLE mail_aliases (
    address text NOT NULL,
    target text NOT NULL,
    PRIMARY KEY (address, target)
);

-- What a user may send as, beside the own address; '@example.org' is a whole domain.
CREATE TABLE mail_senders (
    login text NOT NULL,
    address text NOT NULL,
    PRIMARY KEY (login, address)
);

CREATE INDEX mail_users_lower ON mail_users (lower(address COLLATE "C") COLLATE "C");
CREATE INDEX mail_aliases_lower ON mail_aliases (lower(address COLLATE "C") COLLATE "C");

-- The first argument is the column that has the address; without one, or where many rows have changed, all is read anew.
CREATE FUNCTION qmail_accounts_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NARGS = 0 THEN
        NOTIFY qmail_accounts;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('qmail_accounts', left(to_jsonb(OLD) ->> TG_ARGV[0], 400));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('qmail_accounts', left(to_jsonb(NEW) ->> TG_ARGV[0], 400));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON mail_users
    FOR EACH ROW EXECUTE FUNCTION qmail_accounts_changed('address');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON mail_aliases
    FOR EACH ROW EXECUTE FUNCTION qmail_accounts_changed('address');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail_domains
    FOR EACH STATEMENT EXECUTE FUNCTION qmail_accounts_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail_senders
    FOR EACH STATEMENT EXECUTE FUNCTION qmail_accounts_changed();
