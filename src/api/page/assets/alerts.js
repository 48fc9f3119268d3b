// A sound, or the system's notification, when a session comes into a regime that somebody waits
// for. What is waited for is kept in this browser.

const $ = (id) => document.getElementById(id);

let audio = null;

/** Two short tones. */
function sound() {
  audio ??= new AudioContext();
  for (const [from, pitch] of [
    [0, 660],
    [0.16, 880],
  ]) {
    const [tone, loud] = [audio.createOscillator(), audio.createGain()];
    tone.frequency.value = pitch;
    const at = audio.currentTime + from;
    loud.gain.setValueAtTime(0.2, at);
    loud.gain.exponentialRampToValueAtTime(0.001, at + 0.14);
    tone.connect(loud).connect(audio.destination);
    tone.start(at);
    tone.stop(at + 0.15);
  }
}

const key = (session) => `alerts:${session}`;

export class Alerts {
  constructor() {
    [this.session, this.regime] = [null, null];
    this.wanted = { regimes: [], sound: true, notification: false };
    $("alert-sound").addEventListener("change", () => this.keep());
    $("alert-notification").addEventListener("change", async () => {
      // Browsers ask only when somebody has just done something.
      if ($("alert-notification").checked && Notification.permission !== "granted") {
        const answer = await Notification.requestPermission();
        $("alert-notification").checked = answer === "granted";
        if (answer !== "granted") $("alert-said").textContent = "This browser does not allow it.";
      }
      this.keep();
    });
  }

  /** Another session, or other regimes of it. */
  of(session, regimes) {
    const made = `${session} ${regimes.join(" ")}`;
    if (this.made === made) return;
    [this.made, this.session, this.regime] = [made, session, null];
    try {
      Object.assign(this.wanted, JSON.parse(localStorage.getItem(key(session)) || "{}"));
    } catch {
      // As it was.
    }
    if (!localStorage.getItem(key(session))) this.wanted.regimes = [];
    $("alert-sound").checked = this.wanted.sound;
    $("alert-notification").checked = this.wanted.notification;
    $("alert-regimes").replaceChildren(
      ...[...regimes, "unknown"].map((name) => {
        const label = document.createElement("label");
        const box = document.createElement("input");
        Object.assign(box, { type: "checkbox", value: name });
        box.checked = this.wanted.regimes.includes(name);
        box.addEventListener("change", () => this.keep());
        label.append(box, ` ${name}`);
        return label;
      }),
    );
  }

  keep() {
    const boxes = [...$("alert-regimes").querySelectorAll("input:checked")];
    this.wanted = {
      regimes: boxes.map((box) => box.value),
      sound: $("alert-sound").checked,
      notification: $("alert-notification").checked,
    };
    localStorage.setItem(key(this.session), JSON.stringify(this.wanted));
  }

  /** The label in force. */
  take(regime) {
    const before = this.regime;
    this.regime = regime;
    if (before === null || before === regime || !this.wanted.regimes.includes(regime)) return;
    const at = new Date().toLocaleTimeString([], { hour12: false });
    $("alert-said").textContent = `${regime} since ${at}`;
    if (this.wanted.sound) sound();
    if (this.wanted.notification && Notification.permission === "granted")
      new Notification(`${this.session}: ${regime}`, { body: `since ${at}`, tag: this.session });
  }
}
