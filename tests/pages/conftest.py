import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from firefox import Firefox


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    paths = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if not all(paths):
        pytest.skip(
            "the explorer's script was NOT TESTED, for there is no Chromium with chromedriver: on Debian,"
            " `apt-get install chromium chromium-driver`; elsewhere, install Chrome and the chromedriver of its version"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def firefox(tmp_path_factory):
    """A headless Firefox."""
    path = shutil.which("firefox-esr") or shutil.which("firefox")
    if not path:
        pytest.skip("the explorer was NOT TESTED in Firefox: on Debian, `apt-get install firefox-esr`")
    browser = Firefox(path, str(tmp_path_factory.mktemp("profile")))
    yield browser
    browser.quit()
