"""What tests of pages listen to in a browser."""

# What a script from a text would do, and what the page's rule would say of it.
HEARD = """
window.heard = [];
for (const name of ['alert', 'confirm', 'prompt']) window[name] = (text) => heard.push(`${name}: ${text}`);
addEventListener('securitypolicyviolation', (event) => heard.push(event.violatedDirective));
addEventListener('error', (event) => heard.push(event.message));
"""
