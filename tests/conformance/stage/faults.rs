//! What a broker does that is in trouble.
use nix::{sys::signal::Signal, unistd::Pid};

use super::Stage;

impl Stage {
    /// Has the broker take nothing from any publisher, as when it is short of memory; or as before.
    pub(crate) async fn hold_back_publishers(&self, held: bool) {
        let watermark = if held { "0.0001" } else { "0.8" };
        self.broker.ours().ctl(&["set_vm_memory_high_watermark", watermark]).await.unwrap();
    }

    /// Has the broker's process stand still, or go on.
    pub(crate) fn freeze_broker(&self, frozen: bool) {
        let pid = Pid::from_raw(self.broker.ours().record().process.unwrap().pid.cast_signed());
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Has the broker answer nothing on the channel that consumes a queue, while its connection stays as it is; or answer
    /// again on every channel.
    pub(crate) async fn freeze_consumer(&self, queue: &str, frozen: bool) {
        let change = if frozen {
            format!(
                "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"lota\">>, queue, <<\"{queue}\">>)), \
                 [ok] = [sys:suspend(element(1, C)) || C <- rabbit_amqqueue:consumers(Q)]."
            )
        } else {
            "[catch sys:resume(C) || C <- rabbit_channel:list()].".to_owned()
        };
        self.broker.ours().ctl(&["eval", &change]).await.unwrap();
    }

    /// Takes away what leads the bot's events to the taps, so that no queue takes them; or puts it back.
    pub(crate) async fn cut_taps(&self, cut: bool) {
        let leads = |source: &str, to: &str| source == "lota.egress.toy-bot" && to == "lota.events";
        if cut {
            for binding in self.management.bindings("lota").await.unwrap() {
                if leads(&binding.source, &binding.destination) {
                    self.management.delete_binding("lota", &binding).await.unwrap();
                }
            }
            return;
        }
        for binding in self.topology().bindings.iter().filter(|b| leads(&b.source, &b.destination)) {
            let to = (bot_provision::Destination::Exchange, "lota.events");
            self.management.put_binding("lota", &binding.source, to, &binding.routing_key).await.unwrap();
        }
    }

    /// Has the broker forget that the bot consumes a queue, and tell nobody.
    pub(crate) async fn drop_consumer(&self, queue: &str) {
        let drop = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"lota\">>, queue, <<\"{queue}\">>)), \
             [begin {{ok, _, _}} = ra:process_command(amqqueue:get_pid(Q), \
             rabbit_fifo:make_checkout({{element(2, C), element(1, C)}}, cancel, #{{}})) end \
             || C <- rabbit_amqqueue:consumers(Q)]."
        );
        self.broker.ours().ctl(&["eval", &drop]).await.unwrap();
    }
}
