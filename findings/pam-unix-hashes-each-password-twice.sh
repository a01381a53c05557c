#!/bin/sh
# pam_unix of Linux-PAM 1.5.2 (Debian 12's libpam-modules 1.5.2-6+deb12u3) hashes a password twice to compare it once.
# The call of crypt_r(3), for yescrypt, SHA-512 and whatever else only libcrypt knows, is the argument of a macro that
# evaluates it two times: x_strdup of security/_pam_macros.h, in verify_pwd_hash of modules/pam_unix/passverify.c.
#
# Seen: one successful log-in calls crypt_r twice, with the same password and the same hash, with nullok and without.
# So a server's log-in by PAM takes the time of two hashes: 51.9 ms where one takes 24.7.
#
# Seen by hand, not run here: 1.7.0-5 (Debian 13) does so too, in unix_chkpwd(8), which it runs for shadowed accounts
# (linux-pam pull request 686). There nullok makes it four: the empty password is hashed first, twice (784).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q libpam0g=1.5.2-6+deb12u3 libpam0g-dev=1.5.2-6+deb12u3 libpam-modules=1.5.2-6+deb12u3 \
  libcrypt1=1:4.4.33-2 >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
libraries=$(dirname "$PWD"/root/lib/*/libpam.so.0)
export libraries
# What the program exports comes before libcrypt, which pam_unix.so brings: its crypt_r counts, and calls the real one.
cat >show.c <<'C'
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <security/pam_appl.h>

static int calls, others;
static char password[] = "a password", first[512];
static char data[32768]; /* what crypt_r(3) calls struct crypt_data */

char *crypt_r(const char *phrase, const char *setting, void *data)
{
    char *(*real)(const char *, const char *, void *) = dlsym(dlopen("libcrypt.so.1", RTLD_NOW), "crypt_r");
    if (!calls++)
        snprintf(first, sizeof first, "%s", setting);
    others += strcmp(phrase, password) || strcmp(setting, first);
    return real(phrase, setting, data);
}

static int answer(int count, const struct pam_message **asked, struct pam_response **answers, void *unused)
{
    *answers = calloc(count, sizeof **answers);
    (*answers)->resp = strdup(password);
    return PAM_SUCCESS;
}

int main(int count, char **words)
{
    struct pam_conv conversation = {answer, NULL};
    pam_handle_t *handle;
    crypt_r(password, "$6$abcdefghijklmnop$", data);
    int alone = calls;
    calls = 0;
    int result = pam_start_confdir(words[2], words[1], &conversation, "services", &handle);
    if (result == PAM_SUCCESS)
        result = pam_authenticate(handle, 0);
    printf("%s %s: %s, calls: %d", words[1], words[2], pam_strerror(handle, result), calls);
    printf(", with another password or hash: %d, of one hash by itself: %d\n", others, alone);
    return pam_end(handle, result);
}
C
cc -rdynamic -I root/usr/include -o show show.c -L "$libraries" -l:libpam.so.0
mkdir services
echo "auth required $libraries/security/pam_unix.so" >services/strict
echo "auth required $libraries/security/pam_unix.so nullok" >services/nullok
: >services/other
cat >passwd <<'P'
root:x:0:0:root:/root:/bin/sh
yescrypt:x:5001:5001::/nonexistent:/bin/false
sha512:x:5002:5002::/nonexistent:/bin/false
P
cat >shadow <<'S'
root:*:::::::
yescrypt:$y$j9T$abcdefghijklmnop$C10AMoV7EBTZ5F9CItaUNNSVYRQBnVu0l.wp58VKSa2:::::::
sha512:$6$abcdefghijklmnop$Pu2.eRfqg3cmr4.TbuhDQs7x/9oekL83m/g7nkhJREQcFqPM7ynzfOzZX2SIkJEiKn.dtmqEcFyPPvU9VtJ/l1:::::::
S
unshare -m sh -eu <<'U' | tee out
mount --bind passwd /etc/passwd
mount --bind shadow /etc/shadow
for user in yescrypt sha512; do
  for service in strict nullok; do LD_LIBRARY_PATH=$libraries ./show "$user" "$service"; done
done
U
cat >seen <<'S'
yescrypt strict: Success, calls: 2, with another password or hash: 0, of one hash by itself: 1
yescrypt nullok: Success, calls: 2, with another password or hash: 0, of one hash by itself: 1
sha512 strict: Success, calls: 2, with another password or hash: 0, of one hash by itself: 1
sha512 nullok: Success, calls: 2, with another password or hash: 0, of one hash by itself: 1
S
cmp out seen
