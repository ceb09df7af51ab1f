#!/bin/sh
# install.sh: programs, units and folders of a fleet on this host, without containers. As root. DESTDIR puts everything below
# a folder and starts nothing; PROFILE names what was compiled (release). What an administrator may have changed is kept.
set -eu
cd "$(dirname "$0")/.."
to=${DESTDIR:-} from=target/${PROFILE:-release}
units=$to/etc/systemd/system

programs() {
    install -d "$to/usr/local/bin" "$to/usr/local/lib/lotabots"
    install -m 755 "$from/lota" "$to/usr/local/bin/lota"
    for config in deploy/config/*-bot.yaml; do
        bot=$(basename "$config" .yaml) program=$bot
        # The one service is named after what it does.
        [ -e "$from/$program" ] || program=${bot%-bot}
        install -m 755 "$from/$program" "$to/usr/local/lib/lotabots/$bot"
    done
}

units() {
    install -d "$units" "$to/usr/lib/sysusers.d" "$to/usr/lib/tmpfiles.d"
    install -m 644 deploy/systemd/*.target deploy/systemd/*.service "$units/"
    for bot in build-bot deploy-bot test-bot; do drop_in "$bot" commands; done
    drop_in deploy-bot applications
    drop_in monitor-bot monitor
    install -m 644 deploy/systemd/sysusers.conf "$to/usr/lib/sysusers.d/lotabots.conf"
    install -m 644 deploy/systemd/tmpfiles.conf "$to/usr/lib/tmpfiles.d/lotabots.conf"
}

# drop_in BOT NAME
drop_in() {
    install -d "$units/lotabots@$1.service.d"
    install -m 644 "deploy/systemd/$2.conf" "$units/lotabots@$1.service.d/$2.conf"
}

[ -e "$from/lota" ] || { echo "install: $from/lota is missing: run make release first" >&2; exit 69; }
[ -n "$to" ] || [ "$(id -u)" = 0 ] || { echo "install: not root: sudo make install, or DESTDIR=folder" >&2; exit 77; }
programs
units
install -d -m 750 "$to/etc/lotabots"
[ -e "$to/etc/lotabots/lotabots.env" ] || install -m 640 deploy/systemd/lotabots.env "$to/etc/lotabots/lotabots.env"
if [ -z "$to" ]; then
    systemd-sysusers
    systemd-tmpfiles --create lotabots.conf
    systemctl daemon-reload
fi
cat <<'NEXT'
installed. Next, once:
  rabbitmq-plugins enable rabbitmq_management
  rabbitmqctl add_user lota-admin     # asks for a password; the same goes into /etc/lotabots/broker-admin.password (mode 600)
  rabbitmqctl set_user_tags lota-admin administrator
  systemctl enable --now lotabots.target
NEXT
