"""The site's configuration; tools/docs calls Sphinx with it."""
project = "Sidestep"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "Sidestep"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
exclude_patterns = ["files/**"]
highlight_language = "text"
cpp_index_common_prefix = ["sidestep::", "sidestep::subprocess::"]
pygments_style = "default"


def dark_colours():
    """Furo's dark colours. In Debian's furo they are there for who chooses the dark theme, and lost for
    who leaves that to the system (its compiler drops a media query within another); options of the theme
    are written for both."""
    import pathlib
    import re

    import furo

    css = (pathlib.Path(furo.__file__).parent / "theme/furo/static/styles/furo.css").read_text()
    dark = re.search(r'body\[data-theme="dark"\]\s*\{(.*?)\}', css, re.S)
    return dict(re.findall(r"--([\w-]+):\s*([^;}]+)", dark[1])) if dark else {}


html_theme_options = {"dark_css_variables": dark_colours()}
