# Prints the secret in S in every form that has to be known, a name before each.
echo "plain:$S"
printf 'base64:'; printf %s "$S" | base64 -w0; echo
printf 'url-safe:'; printf %s "$S" | base64 -w0 | tr '+/' '-_' | tr -d '='; echo
printf 'basic:'; printf 'user:%s' "$S" | base64 -w0; echo
echo 'wrapped:'; printf 'xy%s' "$S" | base64 -w 20
printf 'hex:'; printf %s "$S" | od -An -v -tx1 | tr -d ' \n'; echo
perl -e '
    sub say_as { my ($name, $change) = @_; local $_ = $ENV{S}; $change->(); print "$name:$_\n" }
    say_as("percent", sub { s/([^A-Za-z0-9._~-])/sprintf("%%%02X", ord $1)/ge });
    say_as("percent-lower", sub { s/([^A-Za-z0-9._~-])/sprintf("%%%02x", ord $1)/ge });
    say_as("form", sub { s/([^A-Za-z0-9._* -])/sprintf("%%%02X", ord $1)/ge; s/ /+/g });
    say_as("json", sub { s/(["\\])/\\$1/g; s/\n/\\n/g });
    say_as("json-go", sub { s/(["\\])/\\$1/g; s/\n/\\n/g; s/([&<>])/sprintf("\\u%04x", ord $1)/ge });
    say_as("xml", sub { s/&/&amp;/g; s/</&lt;/g; s/>/&gt;/g; s/"/&quot;/g });
    say_as("shell", sub { s/\x27/\x27\\\x27\x27/g });
    $| = 1; $_ = $ENV{S};
    print "parts:"; print substr($_, 0, 9), ""; print substr($_, 9), "\n";
    print STDERR "long:", "a" x 4085, $_, "b" x 5000, "\n";
'
