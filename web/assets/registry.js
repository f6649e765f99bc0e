// What the pages do beyond HTML: mask, show and copy a new key. Without this script it is
// not masked, and the buttons are hidden.
"use strict";

// Runs before the page is laid out, so that the key is never seen before it is masked.
document.documentElement.classList.add("scripted");

document.addEventListener("DOMContentLoaded", () => {
	for (const button of document.querySelectorAll("[data-show]")) {
		const input = document.getElementById(button.dataset.show);
		button.hidden = false;
		button.addEventListener("click", () => show(button, input));
		// What is selected would be copied as dots.
		input.addEventListener("copy", (event) => {
			event.preventDefault();
			event.clipboardData.setData("text/plain", input.value);
		});
	}
	for (const button of document.querySelectorAll("[data-copy]")) {
		button.hidden = false;
		button.addEventListener("click", () => copy(button));
	}
});

function show(button, input) {
	const shown = input.classList.toggle("shown");
	button.textContent = shown ? "Hide" : "Show";
}

async function copy(button) {
	const source = document.getElementById(button.dataset.copy);
	const copied = await write(source);
	// Read out by screen readers, also if the same is copied twice.
	const status = document.querySelector("[data-copied]");
	status.textContent = "";
	setTimeout(() => {
		status.textContent = copied ? "Copied" : "Not copied: select the text and copy it yourself";
	}, 50);
	button.dataset.text ??= button.textContent;
	button.textContent = copied ? "Copied" : "Select it";
	button.classList.toggle("done", copied);
	clearTimeout(button.timer);
	button.timer = setTimeout(() => {
		button.textContent = button.dataset.text;
		button.classList.remove("done");
		status.textContent = "";
	}, 2500);
}

async function write(source) {
	const text = source.value ?? source.textContent;
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		// There is no clipboard over plain HTTP, but there is the command of old.
		return writeSelected(text);
	}
}

function writeSelected(text) {
	const focused = document.activeElement;
	const area = document.createElement("textarea");
	area.className = "unseen";
	area.readOnly = true;
	area.value = text;
	document.body.append(area);
	area.select();
	try {
		return document.execCommand("copy");
	} catch {
		return false;
	} finally {
		area.remove();
		focused?.focus();
	}
}
